"""`scmrl bag` on recordings that rosbags writes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import httpx
import numpy as np
import pytest

from service.commands.bag import windows
from service.commands.bag.recording import Choice, Picture, Sound, SoundFormat, open_recording
from tests.service.commands.test_cli import scmrl
from tests.service.conftest import CLIPS
from tests.service.streaming.test_stream import RATE, media, wav

rosbag2 = pytest.importorskip("rosbags.rosbag2", reason="needs rosbags (the extra robots)")
typesys = pytest.importorskip("rosbags.typesys")

AUDIO_MESSAGES = {
    "AudioData": "uint8[] data",
    "AudioDataStamped": "std_msgs/Header header\naudio_common_msgs/AudioData audio",
    "AudioInfo": "uint8 channels\nuint32 sample_rate\nstring sample_format\nuint32 bitrate\n"
    "string coding_format",
}
STORE = typesys.get_typestore(typesys.Stores.ROS2_JAZZY)
for name, text in AUDIO_MESSAGES.items():
    STORE.register(typesys.get_types_from_msg(text, f"audio_common_msgs/msg/{name}"))
#: 2026, in ns.
BEGIN = 1_790_000_000 * 10**9
SECOND = 10**9
#: Topic, time in ns, message.
Recorded = list[tuple[str, int, Any]]


def message(kind: str, **members: Any) -> Any:
    for prefix in ("sensor_msgs", "audio_common_msgs"):
        if (name := f"{prefix}/msg/{kind}") in STORE.types:
            return STORE.types[name](**members)
    raise KeyError(kind)


def header(time_ns: int) -> Any:
    stamp = STORE.types["builtin_interfaces/msg/Time"](
        sec=time_ns // SECOND, nanosec=time_ns % SECOND
    )
    return STORE.types["std_msgs/msg/Header"](stamp=stamp, frame_id="")


def compressed(time_ns: int, data: bytes, kind: str = "png") -> Any:
    array = np.frombuffer(data, np.uint8)
    return message("CompressedImage", header=header(time_ns), format=kind, data=array)


def raw(time_ns: int, pixels: Any, encoding: str, padding: int) -> Any:
    height, width, depth = pixels.shape
    rows = np.zeros((height, width * depth + padding), np.uint8)
    rows[:, : width * depth] = pixels.reshape(height, -1)
    return message(
        "Image", header=header(time_ns), height=height, width=width, encoding=encoding,
        is_bigendian=0, step=rows.shape[1], data=rows.reshape(-1),
    )  # fmt: skip


def audio(data: bytes, time_ns: int | None = None) -> Any:
    plain = message("AudioData", data=np.frombuffer(data, np.uint8))
    if time_ns is None:
        return plain
    return message("AudioDataStamped", header=header(time_ns), audio=plain)


def write(folder: Path, recorded: Recorded, plugin: str = "MCAP") -> Path:
    """Write a recording, and return its folder."""
    storage = rosbag2.StoragePlugin[plugin]
    with rosbag2.Writer(folder, version=9, storage_plugin=storage) as writer:
        connections: dict[str, Any] = {}
        for topic, time_ns, each in sorted(recorded, key=lambda entry: entry[1]):
            if topic not in connections:
                kind = each.__msgtype__
                connections[topic] = writer.add_connection(topic, kind, typestore=STORE)
            data = STORE.serialize_cdr(each, each.__msgtype__)
            writer.write(connections[topic], time_ns, data)
    return folder


def spoken_seven(clip: bytes) -> tuple[Recorded, list[tuple[int, bytes]], bytes]:
    """A clip as messages of a camera and a microphone, recorded 5 ms after they were stamped."""
    pictures, sound = media(clip)
    recorded: Recorded = [
        ("/camera", BEGIN + at + 5_000_000, compressed(BEGIN + at, data)) for at, data in pictures
    ]
    piece = RATE // 50 * 2
    for number, begin in enumerate(range(0, len(sound), piece)):
        at = BEGIN + number * SECOND // 50
        recorded.append(("/audio", at + 5_000_000, audio(sound[begin : begin + piece], at)))
    return recorded, pictures, sound


def choice(image: str | None = None, name: str = "auto", is_log_time: bool = False) -> Choice:
    return Choice(image, None, SoundFormat(name, RATE, 1), is_log_time)


def test_a_recording_is_answered_as_an_upload_of_its_windows(
    clip: bytes, weights: Path, service: httpx.Client, tmp_path: Path
) -> None:
    recorded, pictures, sound = spoken_seven(clip)
    folder = write(tmp_path / "seven", recorded)
    (mcap,) = folder.glob("*.mcap")
    seconds = len(sound) / 2 / RATE
    arguments = ["--json", "--models", weights, "--window", seconds]
    *_, line = scmrl("bag", mcap, *arguments).stdout.splitlines()
    answer = json.loads(line)
    assert answer["end_ns"] - answer["begin_ns"] == round(seconds * SECOND)
    centres = [BEGIN + (2 * part + 1) / 8 * seconds * SECOND for part in range(4)]
    shown = [max([p for p in pictures if BEGIN + p[0] <= c] or pictures[:1])[1] for c in centres]
    files = [("audio", wav(sound)), *(("frames", (f"{i}.png", d)) for i, d in enumerate(shown))]
    form = {"attention": "none"}
    uploaded = service.post("/v1/classify", files=files, data=form).json()
    assert answer["prediction"]["label"] == uploaded["prediction"]["label"]
    for stream, terms in uploaded["contributions"].items():
        assert answer["contributions"][stream] == pytest.approx(terms, abs=1e-4), stream

    database = write(tmp_path / "database", recorded, "SQLITE3")
    hops = ["--window", 1, "--hop", 0.25, "--steps", 2, "--json"]
    local = scmrl("bag", database, *hops, "--models", weights).stdout.splitlines()
    remote = scmrl("bag", folder, *hops, "--url", service.base_url).stdout.splitlines()
    ends = [json.loads(each)["end_ns"] for each in local]
    assert len(ends) == 6
    assert ends[:2] == [BEGIN + SECOND, BEGIN + 5 * SECOND // 4]
    assert [json.loads(each)["end_ns"] for each in remote] == ends
    assert {json.loads(each)["steps"] for each in remote} == {2}
    table = scmrl("bag", folder, "--url", service.base_url, "--window", 1).stdout
    assert "6 windows" in table
    assert f"{(BEGIN + SECOND) // SECOND}.000000000" in table


def test_raw_pictures_are_read_without_their_padding(tmp_path: Path) -> None:
    pixels = np.zeros((8, 12, 3), np.uint8)
    pixels[:, :6] = (250, 120, 10)
    grey = np.tile(np.arange(12, dtype=np.uint8) * 20, (8, 1))[:, :, None]
    recorded: Recorded = [
        ("/rgb", BEGIN + 1, raw(BEGIN, pixels, "rgb8", padding=4)),
        ("/rgb", BEGIN + 2, raw(BEGIN + SECOND, pixels[:, :, ::-1], "bgr8", padding=0)),
        ("/rgb", BEGIN + 3, raw(BEGIN + 2 * SECOND, grey, "mono8", padding=3)),
        ("/rgb", BEGIN + 4, raw(BEGIN + 2 * SECOND + 5, grey, "mono8", padding=0)),
    ]
    folder = write(tmp_path / "raw", recorded)
    with open_recording(folder, choice()) as recording:
        read = list(recording.read(interval_ns=SECOND // 10))
    assert [piece.time_ns - BEGIN for piece in read] == [0, SECOND, 2 * SECOND]
    decoded = [
        cv2.imdecode(np.frombuffer(piece.data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
        for piece in read
        if isinstance(piece, Picture)
    ]
    assert np.array_equal(decoded[0], pixels)
    assert np.array_equal(decoded[1], pixels)
    assert np.array_equal(decoded[2], np.repeat(grey, 3, 2))


def mp3(samples: Any) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format="mp3") as container:
        stream: Any = container.add_stream("libmp3lame", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16p", layout="mono")
        frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


@pytest.mark.parametrize("encode", [mp3, lambda samples: samples.astype("<i2").tobytes()])
@pytest.mark.parametrize("is_announced", [True, False])
def test_sound_is_decoded_as_audio_info_or_the_data_say(
    encode: Callable[[Any], bytes], is_announced: bool, tmp_path: Path
) -> None:
    tone = (8000 * np.sin(np.arange(RATE) * 2 * np.pi * 440 / RATE)).astype(np.int16)
    data = encode(tone)
    count = 40
    step = -(-len(data) // count) // 2 * 2 + 2
    recorded: Recorded = [
        ("/audio", BEGIN + n * SECOND // count, audio(data[n * step : (n + 1) * step]))
        for n in range(-(-len(data) // step))
    ]
    if is_announced:
        coding = "mp3" if encode is mp3 else "WAVE"
        info = message(
            "AudioInfo", channels=1, sample_rate=RATE, sample_format="S16LE", bitrate=64,
            coding_format=coding,
        )  # fmt: skip
        recorded.append(("/audio_info", BEGIN - 1, info))
    with open_recording(write(tmp_path / "sound", recorded), choice()) as recording:
        pieces = [piece for piece in recording.read(1) if isinstance(piece, Sound)]
    assert {(piece.sample_rate, piece.channels) for piece in pieces} == {(RATE, 1)}
    samples = np.frombuffer(b"".join(piece.data for piece in pieces), "<i2")
    assert abs(len(samples) - RATE) < RATE / 5
    spectrum = np.abs(np.fft.rfft(samples[:8000] * np.hanning(8000)))
    assert abs(int(spectrum.argmax()) - 220) <= 1, "440 Hz"


def test_windows_begin_anew_where_the_clock_was_put_back(tmp_path: Path) -> None:
    """As in a recording of one that was played in a loop."""
    png = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    times = [BEGIN + n * SECOND // 10 for n in range(26)]
    recorded: Recorded = [
        ("/c", time_ns, compressed(times[n % 13], png)) for n, time_ns in enumerate(times)
    ]
    with open_recording(write(tmp_path / "loop", recorded), choice()) as recording:
        cut = list(windows.cut(recording, window_s=1, hop_s=1, pictures=2))
    ends = [round((each.end_ns - BEGIN) / SECOND, 3) for each in cut]
    assert ends == [1, 1.2, 1.2]


def test_windows_begin_anew_where_time_jumps_and_one_topic_may_end(tmp_path: Path) -> None:
    png = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    silence = bytes(RATE // 10 * 2)
    tenths = [n * SECOND // 10 for n in range(40)]
    recorded: Recorded = [("/a", BEGIN + t, audio(silence, BEGIN + t)) for t in tenths]
    recorded += [("/c", BEGIN + t, compressed(BEGIN + t, png)) for t in tenths[:10]]
    later = BEGIN + 1000 * SECOND
    recorded += [("/a", later + t, audio(silence, later + t)) for t in tenths[:5]]
    with open_recording(write(tmp_path / "jump", recorded), choice()) as recording:
        cut = list(windows.cut(recording, window_s=1, hop_s=1, pictures=2))
    ends = [round((each.end_ns - BEGIN) / SECOND, 3) for each in cut]
    assert ends == [1, 2, 3, 4, 1000.5]
    assert [set(each.files) for each in cut] == [{"frames", "audio"}] + [{"audio"}] * 4
    assert [len(each.files.get("frames", ())) for each in cut] == [2, 0, 0, 0, 0]


def test_what_cannot_be_used_is_named(tmp_path: Path, weights: Path) -> None:
    def error(*arguments: object) -> str:
        output = scmrl("bag", *arguments, "--models", weights, code=1).output
        return " ".join(output.split())

    png = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    two: Recorded = [(f"/{n}", BEGIN, compressed(BEGIN, png)) for n in ("left", "right")]
    both = write(tmp_path / "two", two)
    assert "choose a topic of /left, /right" in error(both)
    assert "there are: /left (sensor_msgs/msg/CompressedImage)" in error(both, "--image", "/up")
    info = message("AudioInfo", channels=1, sample_rate=RATE, sample_format="", bitrate=0,
                   coding_format="")  # fmt: skip
    assert "no topic of sensor_msgs" in error(write(tmp_path / "none", [("/info", BEGIN, info)]))
    (tmp_path / "notes.mcap").write_text("nothing")
    assert "cannot read" in error(tmp_path / "notes.mcap")
    assert "missing.mcap: No such file" in error(tmp_path / "missing.mcap")
    (tmp_path / "folder").mkdir()
    assert "it has no metadata.yaml" in error(tmp_path / "folder")
    strange = [("/c", BEGIN, raw(BEGIN, np.zeros((2, 2, 3), np.uint8), "odd", padding=0))]
    assert "/c: " in error(write(tmp_path / "strange", strange))
    sounds: Recorded = [("/a", BEGIN, audio(b"abcd", BEGIN))]
    folder = write(tmp_path / "sound", sounds)
    assert "no decoder of that name" in error(folder, "--audio-format", "cheese")
    clocks = [*sounds, ("/c", BEGIN + 1, compressed(7 * SECOND, png))]
    folder = write(tmp_path / "clocks", clocks)
    assert "--log-time takes" in error(folder)
    with open_recording(folder, choice(is_log_time=True)) as recording:
        assert {piece.time_ns for piece in recording.read(1)} == {BEGIN, BEGIN + 1}


def test_a_window_that_cannot_be_classified_is_reported(tmp_path: Path, weights: Path) -> None:
    jpeg = (CLIPS.parent / "seeds" / "rgb.jpg").read_bytes()
    recorded: Recorded = [
        ("/c", BEGIN, compressed(BEGIN, b"no picture", "jpeg")),
        ("/c", BEGIN + 3 * SECOND, compressed(BEGIN + 3 * SECOND, jpeg, "jpeg")),
    ]
    folder = write(tmp_path / "damaged", recorded)
    command = ["bag", folder, "--models", weights, "--window", 1, "--hop", 1]
    first, last = map(json.loads, scmrl(*command, "--json", code=1).stdout.splitlines())
    assert first["error"]["status"] in (415, 422)
    assert last["prediction"]["label"]
    assert "2 windows" in scmrl(*command, code=1).stdout
