"""`scmrl watch` and `scmrl classify --url`, against running services. No camera is needed."""

from __future__ import annotations

import functools
import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import httpx
import numpy as np
import pytest
import soundfile
from rich.console import Console

from service.commands import answer_table, remote
from service.commands.watch import capture, view
from service.commands.watch.capture import CaptureError, Picture, Sound
from tests.service.commands.test_cli import scmrl
from tests.service.conftest import CLIPS
from tests.service.rtsp import RtspServer

CLIP = CLIPS / "digit-7.mp4"


@pytest.fixture
def url(service: httpx.Client) -> str:
    return str(service.base_url)


# --- classify --url ------------------------------------------------------------------------------


def test_a_server_classifies_as_this_machine_does(
    url: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty.mp4"
    empty.touch()
    arguments = ["classify", CLIP, empty, "--model", "strict", "--steps", 2, "--top-k", 3]
    remote = scmrl(*arguments, "--url", url, "--json", code=1).stdout.splitlines()
    local = scmrl(*arguments, "--models", weights, "--json", code=1).stdout.splitlines()
    answers = [json.loads(lines[0]) for lines in (remote, local)]
    assert answers[0]["model"] == answers[1]["model"]
    assert [p["label"] for p in answers[0]["probabilities"]] == [
        p["label"] for p in answers[1]["probabilities"]
    ]
    assert answers[0].keys() - {"id"} == answers[1].keys() - {"id"}
    problems = [json.loads(lines[1])["error"] for lines in (remote, local)]
    assert problems[0].pop("id")
    assert problems[0] == problems[1]
    table = scmrl("classify", CLIP, "--url", url, "--overlay", tmp_path / "maps.png").stdout
    assert "probability" in table
    assert (tmp_path / "maps.png").exists()


def test_a_server_that_is_not_there_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = "http://127.0.0.1:1"
    assert "cannot be reached" in scmrl("classify", CLIP, "--url", nowhere, code=1).stderr
    assert "cannot be reached" in scmrl("watch", CLIP, "--url", nowhere, code=1).stderr
    for command in ("classify", "watch"):
        assert "as http://" in scmrl(command, CLIP, "--url", "nonsense", code=2).output
    monkeypatch.setattr(remote, "DEFAULT_URL", nowhere)
    assert "`scmrl serve` starts" in scmrl("watch", CLIP, "--url", nowhere, code=1).stderr
    assert "pass its --url as well" in scmrl("classify", CLIP, "--key", "k", code=2).output
    missing = f"@{tmp_path / 'key'}"
    assert "cannot read" in scmrl("watch", CLIP, "--key", missing, code=2).output
    two = scmrl("watch", CLIP, "--key", "one two", code=2).output
    assert "--key" in two
    assert "has characters" in two
    (tmp_path / "key").write_text("one\n", "utf-8-sig")
    assert remote.read_key(missing) == "one"


@pytest.mark.parametrize("columns", [120, 85, 80, 72, 60])
def test_tables_fit_the_terminal(url: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their bars are shorter, or left out, before a column is cut off."""
    monkeypatch.setattr(answer_table, "Console", functools.partial(Console, width=columns))
    printed = scmrl("classify", CLIP, "--url", url).stdout
    assert "logit" in printed
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= columns
    assert printed.count("┓") == 1, "the right border is there"


# --- watch ---------------------------------------------------------------------------------------


def test_a_file_is_watched_in_real_time(url: str) -> None:
    began = time.monotonic()
    shown = scmrl("watch", CLIP, "--url", url, "--window", 1, "--hop", 0.2, "--json").stdout
    seconds = time.monotonic() - began
    answers = [json.loads(line) for line in shown.splitlines()]
    assert seconds > 1.8, "a clip of 2 s takes as long"
    assert len(answers) >= 2
    assert answers[-1]["final"]
    newest = answers[-1]["window"]["newest_ns"]
    assert newest.keys() == {"audio", "frames"}
    ends = [answer["window"]["end_ns"] for answer in answers]
    assert ends == sorted(ends)
    assert all(answer["result"]["streams"]["visual"]["width"] == 320 for answer in answers[1:])


def test_the_view_has_label_bars_and_delay(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(CLIP, tmp_path / "a[bold]b.mp4")
    monkeypatch.chdir(tmp_path)  # a long path would be wrapped
    printed = scmrl("watch", "a[bold]b.mp4", "--url", url, "--top-k", 3).stdout
    assert "a[bold]b.mp4: " in printed
    for part in ("smoothed", "behind", "dropped: ", "skipped: ", "not sent: 0", "final"):
        assert part in printed
    assert printed.endswith("\n"), "where it is no terminal"
    assert printed.count("│ ") > 3
    assert (view.bar(0, 24), view.bar(1, 24), view.bar(1 / 192, 24)) == ("", "█" * 24, "▏")


def test_an_rtsp_address_is_watched(url: str) -> None:
    server = RtspServer(CLIP, seconds=1.0)
    shown = scmrl("watch", server.url, "--url", url, "--hop", 0.3, "--json").stdout
    server.close()
    assert server.methods == ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"]
    last = json.loads(shown.splitlines()[-1])
    assert last["window"]["newest_ns"].keys() == {"audio", "frames"}


def test_ctrl_c_ends_it_in_good_order(url: str, tmp_path: Path) -> None:
    sound = tmp_path / "long.wav"
    soundfile.write(sound, np.sin(np.arange(16000 * 300) / 5) / 2, 16000)
    command = [sys.executable, "-m", "service.cli", "watch", sound, "--url", url, "--json"]
    # Where the tests run in the background, SIGINT is ignored, and so it would be in the command.
    heeds = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        [*command, "--hop", "0.1"], stdout=subprocess.PIPE, text=True, preexec_fn=heeds
    ) as watch:
        assert watch.stdout is not None
        first = json.loads(watch.stdout.readline())
        watch.send_signal(signal.SIGINT)
        later = [json.loads(line) for line in watch.stdout]
    assert watch.returncode == 0
    assert not first["final"]
    assert len(later) < 2000, "it ends long before the file"
    assert [answer["number"] for answer in later] == list(range(1, len(later) + 1))


def test_what_cannot_be_watched_is_named(url: str, tmp_path: Path) -> None:
    def error(*arguments: object, code: int) -> str:
        return " ".join(scmrl("watch", *arguments, "--url", url, code=code).output.split())

    assert "nothing to watch" in error(code=2)
    assert "not both" in error(CLIP, "--camera", "0", code=2)
    assert "must be NAME=VALUE" in error(CLIP, "--option", "x", code=2)
    assert "No such file" in error(tmp_path / "missing.mp4", code=1)
    (tmp_path / "notes.md").write_text("# no clip")
    assert "neither a video nor a sound" in error(tmp_path / "notes.md", code=1)
    assert "cannot open /dev/nowhere" in error("--camera", "/dev/nowhere", code=1)
    assert "no such checkpoint" in error(CLIP, "--model", "nobody", code=1).lower()


# --- capture -------------------------------------------------------------------------------------


@pytest.fixture
def turned(tmp_path: Path) -> Path:
    """A clip whose left half is white, stored as telephones do: to be turned by 90 degrees."""
    path = tmp_path / "turned.mp4"
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:, :48] = 255
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=50)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(20):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(stream.encode())
    data = path.read_bytes()
    at = data.index(b"\x00\x01\x00\x00" + bytes(12) + b"\x00\x01\x00\x00", data.index(b"tkhd"))
    one, minus = (1 << 16).to_bytes(4), (-(1 << 16)).to_bytes(4, signed=True)
    matrix = bytes(4) + one + bytes(4) + minus + bytes(4)  # a, b, u, c, d: clockwise
    path.write_bytes(data[:at] + matrix + data[at + 20 :])
    return path


def test_pictures_are_upright_small_and_no_more_than_asked_for(turned: Path) -> None:
    source = capture.open_file(turned, {})
    pictures = [p for p in source.read(fps=10, width=48) if isinstance(p, Picture)]
    source.close()
    assert source.sound is None
    assert 4 <= len(pictures) <= 5, "0.4 s at 10 a second"
    shown = cv2.imdecode(np.frombuffer(pictures[0].data, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert shown is not None
    assert shown.shape == (48, 32)
    assert shown[:20].mean() > 200 > 60 > shown[28:].mean(), "the left half is now above"


def test_sound_is_stamped_without_gaps_and_ends_after_stop(turned: Path) -> None:
    source = capture.open_file(CLIP, {})
    assert source.sound == (48000, 1)
    pieces = []
    for piece in source.read(fps=5, width=64):
        if isinstance(piece, Sound):
            pieces.append(piece)
        if len(pieces) == 10:
            source.stop()
    source.close()
    assert len(pieces) == 10
    for before, after in itertools.pairwise(pieces):
        length_ns = len(before.data) / 2 / 48000 * 1e9
        assert abs(after.time_ns - before.time_ns - length_ns) < 1e6


def test_short_pieces_of_a_microphone_are_joined() -> None:
    """It may deliver more pieces than the service takes messages."""
    convert = capture._Converter(fps=10, width=64, sound=(48000, 2))
    samples = np.arange(2 * 48 * 100, dtype="<i2")
    pieces = []
    for at, part in enumerate(np.split(samples, 100)):  # 100 pieces of 1 ms, and a gap
        frame = av.AudioFrame.from_ndarray(part[np.newaxis], format="s16", layout="stereo")
        frame.sample_rate = 48000
        pieces += convert(frame, (at if at < 50 else at + 1000) * 1_000_000)
    pieces += convert.flush()
    assert all(isinstance(piece, Sound) for piece in pieces)
    assert [piece.time_ns // 1_000_000 for piece in pieces] == [0, 20, 40, 1050, 1070, 1090]
    assert b"".join(piece.data for piece in pieces) == samples.tobytes()


@pytest.mark.skipif(
    not Path("/usr/share/alsa/alsa.conf").is_file(), reason="ALSA's configuration is not installed"
)
def test_alsa_finds_its_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device `null` is in the system's configuration."""
    for name in ("ALSA_CONFIG_DIR", "ALSA_CONFIG_PATH", "ALSA_PLUGIN_DIR"):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    source = capture.open_device("audio", "null", {})
    try:
        assert source.sound is not None
        piece = next(source.read(fps=10, width=64))
    finally:
        source.close()
    assert isinstance(piece, Sound)
    assert piece.data


def test_a_file_without_pictures_and_sound_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(CaptureError, match=r"notes\.txt"):
        capture.open_file(tmp_path / "notes.txt", {})
