"""Upload fields: those of every checkpoint, and one for each stream of its card, end to end."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from typer.testing import CliRunner

from model.config import Config, StreamConfig
from model.preprocess.profiles import PROFILES
from model.preprocess.specs import FrameSpec, SpectrogramSpec
from service.classification import upload_fields
from service.classification.option_fields import VALUES
from service.classification.options import Options
from service.classification.upload_fields import (
    InputFiles,
    UploadField,
    check_files,
    checkpoint_fields,
)
from service.commands import classify
from service.errors import Error, Problem
from service.http.form import form_fields
from service.settings import Settings
from tests.model.media_files import quadrants
from tests.service import checkpoints
from tests.service.checkpoints import CONFIG, LABELS, STEPS
from tests.service.media_files import png, tone, wav
from tests.service.running_server import running

TWO = {"audio": "spectrogram", "visual": "frames"}
STREAMS = ("audio", "visual", "tactile")
#: Small specs, so that the networks are.
SOUND = SpectrogramSpec(sample_rate=8000, n_fft=256, hop_length=60, size=(32, 32))
PICTURE = FrameSpec(fit="pad", size=(32, 32), frames="spread")
FORCE = PROFILES["avdigits-tactile"]["tactile"].model_copy(update={"size": (32, 32)})
EYES = {"left": "frames", "right": "frames", "heard": "spectrogram"}


def fed(kinds: dict[str, str]) -> dict[str, list[str]]:
    """Return the streams that each field feeds."""
    return {row.name: [name for name in kinds if row.feeds(name, kinds)]
            for row in checkpoint_fields(kinds)}  # fmt: skip


def test_every_field_names_a_reader_and_settings_that_are_there() -> None:
    own = checkpoint_fields({kind: kind for kind in upload_fields.KIND_READERS})
    for row in (*upload_fields.FIELDS, *own):
        assert callable(row.load_reader())
        assert row.max_bytes in Settings.model_fields
        assert row.max_files is None or row.max_files in Settings.model_fields


def test_no_upload_field_has_the_name_of_an_option() -> None:
    assert {row.name for row in upload_fields.FIELDS}.isdisjoint(VALUES)
    assert "steps" not in {row.name for row in checkpoint_fields({"steps": "series", **TWO})}
    assert set(VALUES) <= set(Options.__dataclass_fields__)


def test_each_stream_has_a_field_of_its_name_which_feeds_it_alone() -> None:
    own = fed({**TWO, "tactile": "series"})
    assert own["clip"] == ["audio", "visual"]
    assert (own["audio"], own["visual"], own["tactile"]) == (["audio"], ["visual"], ["tactile"])


def test_a_further_stream_of_a_kind_gets_no_other_streams_file() -> None:
    assert fed({**TWO, "contact": "spectrogram"})["clip"] == ["audio", "visual"]
    assert fed({**TWO, "contact": "spectrogram"})["contact"] == ["contact"]
    eyes = fed(EYES)
    assert (eyes["video"], eyes["left"], eyes["right"]) == (["left"], ["left"], ["right"])
    # The name of a stream goes before the meaning that it has elsewhere.
    assert fed({"room": "spectrogram", "audio": "spectrogram"})["audio"] == ["audio"]


@pytest.mark.parametrize(
    ("files", "field"),
    [
        (InputFiles(clip=b"c", left=b"l"), "left"),
        (InputFiles(video=b"c", left=b"l", right=b"r"), "left"),
        (InputFiles(heard=[b"h", b"h"]), "heard"),
        (InputFiles(), "clip"),
    ],
)
def test_two_files_for_one_stream_are_refused(files: InputFiles, field: str) -> None:
    with pytest.raises(Problem) as caught:
        check_files(files, Settings(), EYES)
    assert (caught.value.error, caught.value.field) == (Error.INVALID_FIELD, field)
    check_files(InputFiles(left=[b"1", b"2"], right=b"r", heard=b"h"), Settings(), EYES)
    check_files(InputFiles(clip=b"c", right=b"r"), Settings(), EYES)


def test_the_repr_of_files_has_their_sizes_and_not_their_content() -> None:
    assert repr(InputFiles(clip=b"secret", frames=[b"a", b""])) == (
        "InputFiles(clip=[6], frames=[1, 0])"
    )


def test_a_stream_may_have_the_name_of_a_parameter() -> None:
    assert InputFiles(self=b"s")["self"] == (b"s",)


def test_a_limit_of_bytes_is_the_setting_that_the_row_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = UploadField("big", ("frames",), "m:f", "A large file.", max_bytes="max_body_bytes")
    monkeypatch.setattr(upload_fields, "FIELDS", (*upload_fields.FIELDS, row))
    fields = form_fields(Settings(max_file_bytes=2048, max_body_bytes=4096), TWO, "avdigits")
    assert (fields.max_bytes("clip"), fields.max_bytes("big")) == (2048, 4096)
    assert fields.max_bytes("visual") == 2048


# --- three streams, and two of a kind, end to end -----------------------------------------------


def pen(seed: int = 0) -> bytes:
    """Return a second of force as CSV: two strokes."""
    time_s = np.arange(200) / 200
    force = np.maximum(np.sin(time_s * (9 + seed)), 0)
    return ("t,force\n" + "".join(f"{t:.3f},{v:.4f}\n" for t, v in zip(time_s, force, strict=True))
            ).encode()  # fmt: skip


def npz(**arrays: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _config(specs: Any) -> Config:
    streams = {
        name: StreamConfig(channels=spec.channels, size=spec.size) for name, spec in specs.items()
    }
    return CONFIG.model_copy(update={"streams": streams})


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of random weights: `avdigits` of three kinds, and `eyes` of two streams of one
    kind."""
    folder = tmp_path_factory.mktemp("streams")
    three = {"audio": SOUND, "visual": PICTURE, "tactile": FORCE}
    eyes = {"left": PICTURE, "right": PICTURE, "heard": SOUND}
    for name, specs in {"avdigits": three, "eyes": eyes}.items():
        checkpoints.save(folder / name, name=name, config=_config(specs), streams=specs)
    return folder


@pytest.fixture(scope="module")
def service(models: Path) -> Iterator[httpx.Client]:
    with running(models, compile="off", decode_workers=1, max_batch=1) as client:
        yield client


Files = dict[str, bytes] | list[tuple[str, bytes]]


def ask(service: httpx.Client, files: Files, model: str = "avdigits", **values: str) -> Any:
    response = service.post(f"/v1/models/{model}/classify", files=files, data=values)
    assert response.status_code == 200, response.text
    return response.json()


def refused(service: httpx.Client, files: Files, model: str = "avdigits") -> Any:
    response = service.post(f"/v1/models/{model}/classify", files=files)
    assert response.status_code >= 400
    return response.json()


def test_three_streams_are_classified_with_contributions_and_a_map_each(
    service: httpx.Client, clip: bytes
) -> None:
    answer = ask(service, {"clip": clip, "tactile": pen()}, attention="overlay")
    assert {entry["label"] for entry in answer["probabilities"]} == set(LABELS)
    assert set(answer["contributions"]) == {*STREAMS, "bias"}
    assert all(any(answer["contributions"][name].values()) for name in STREAMS)
    assert answer["streams"]["tactile"] == {"used": True, "duration_s": 0.995, "values": 200}
    assert set(answer["attention"]) == set(STREAMS)
    for maps in answer["attention"].values():
        assert np.sum(maps["spatial"]["values"]) == pytest.approx(1, abs=1e-5)
        assert np.shape(maps["temporal"]["values"]) == (STEPS, STEPS)
        assert maps["overlay_png"]
    spatial = answer["attention"]["tactile"]["spatial"]
    assert (spatial["rows"], spatial["columns"]) == ("value", "time_s")


def test_each_of_three_streams_can_be_left_out(service: httpx.Client, clip: bytes) -> None:
    files = {"clip": clip, "tactile": pen()}
    answer = ask(service, files, contributions="leave_one_out")
    without = ask(service, {"clip": clip})
    changes = answer["leave_one_out"]["changes"]
    assert set(changes) == set(STREAMS)
    for label in LABELS:
        before, after = (
            sum(terms[label] for terms in each["contributions"].values())
            for each in (without, answer)
        )
        assert changes["tactile"][label] == pytest.approx(after - before, abs=1e-5)


def test_a_stream_may_be_missing_or_empty_or_alone(service: httpx.Client, clip: bytes) -> None:
    missing = ask(service, {"clip": clip})
    assert missing["streams"]["tactile"] == {"used": False, "reason": "no `tactile` was sent"}
    assert set(missing["contributions"]["tactile"].values()) == {0.0}
    empty = ask(service, {"clip": clip, "tactile": b"0,0\n1,0\n"})
    assert empty["streams"]["tactile"]["reason"] == "all its values are 0"
    assert empty["contributions"] == missing["contributions"]
    alone = ask(service, {"tactile": pen()})
    assert [name for name, stream in alone["streams"].items() if stream["used"]] == ["tactile"]


def test_a_series_is_the_same_as_csv_and_npz_in_a_form_and_in_json(service: httpx.Client) -> None:
    rows = np.loadtxt(io.BytesIO(pen()), delimiter=",", skiprows=1)
    as_csv = ask(service, {"tactile": pen()})["contributions"]
    as_npz = ask(service, {"tactile": npz(t=rows[:, 0], force=rows[:, 1])})["contributions"]
    body = {"tactile": base64.b64encode(pen()).decode()}
    as_json = service.post("/v1/classify", json=body).json()["contributions"]
    assert as_csv == as_npz == as_json
    louder = {"tactile": npz(t=rows[:, 0], force=4 * rows[:, 1])}  # `level` is "peak"
    assert ask(service, louder)["contributions"] == as_csv
    assert ask(service, {"tactile": pen(seed=7)})["contributions"] != as_csv


@pytest.mark.parametrize(
    ("file", "status"),
    [(b"\x89PNG\r\n\x1a\n\xff", 415), (b"t,force\n1,2\n0,1\n", 422), (b"0,1\n99,1\n", 413)],
)
def test_a_reader_rejects_a_file_by_its_field(
    service: httpx.Client, clip: bytes, file: bytes, status: int
) -> None:
    problem = refused(service, {"clip": clip, "tactile": file})
    assert (problem["status"], problem["field"]) == (status, "tactile")
    assert problem["detail"].startswith("`tactile`: ")


def test_two_streams_of_one_kind_get_their_own_files(service: httpx.Client) -> None:
    one, other = png(quadrants()), png(quadrants(20, 30))
    both = [("left", one), ("right", other)]
    answer = ask(service, both, "eyes")
    assert answer["streams"]["left"]["width"] != answer["streams"]["right"]["width"]
    swapped = ask(service, [("right", one), ("left", other)], "eyes")
    assert swapped["contributions"]["left"] != answer["contributions"]["left"]
    several = ask(service, [("left", one), ("left", other), ("heard", wav(tone()))], "eyes")
    assert several["streams"]["left"]["frames"] == 2
    assert several["streams"]["right"] == {"used": False, "reason": "no `right` was sent"}
    assert several["streams"]["heard"]["used"]


def test_a_video_in_a_streams_field_gives_its_pictures_alone(
    service: httpx.Client, clip: bytes
) -> None:
    streams = ask(service, {"right": clip}, "eyes")["streams"]
    assert [name for name, stream in streams.items() if stream["used"]] == ["right"]
    assert streams["right"]["frames"] == STEPS


def test_a_file_for_a_stream_that_the_checkpoint_lacks_is_refused_with_those_it_has(
    service: httpx.Client, clip: bytes
) -> None:
    body = {"clip": base64.b64encode(clip).decode(), "tactile": base64.b64encode(pen()).decode()}
    path = "/v1/models/eyes/classify"
    for response in (service.post(path, files={"clip": clip, "tactile": pen()}),
                     service.post(path, json=body)):  # fmt: skip
        problem = response.json()
        assert (problem["status"], problem["field"]) == (422, "tactile")
        assert "The streams of the checkpoint eyes: left, right, heard." in problem["detail"]


def test_the_description_has_the_fields_of_the_checkpoints(service: httpx.Client) -> None:
    paths = service.get("/openapi.json").json()["paths"]
    bodies = {path: paths[path]["post"]["requestBody"]
              for path in ("/v1/classify", "/v1/models/{name}/classify")}  # fmt: skip
    for path, body in bodies.items():
        assert "`tactile` for tactile" in body["description"]
        for content in body["content"].values():
            properties = content["schema"]["properties"]
            assert "CSV" in properties["tactile"]["description"]
            assert ("left" in properties) == (path != "/v1/classify")
    assert "`tactile` for tactile" in service.post("/v1/classify").json()["detail"]


def test_the_command_takes_a_file_for_each_stream(
    models: Path, clip: bytes, tmp_path: Path
) -> None:
    (tmp_path / "clip.mp4").write_bytes(clip)
    (tmp_path / "pen.csv").write_bytes(pen())
    app = typer.Typer()
    app.callback()(lambda: None)
    classify.register(app)

    def run(*arguments: object) -> Any:
        command = ["classify", "--models", models, "--json", "--device", "cpu", *arguments]
        return CliRunner().invoke(app, [str(part) for part in command])

    result = run(tmp_path / "clip.mp4", "--stream", f"tactile={tmp_path / 'pen.csv'}")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["clip"] == str(tmp_path / "clip.mp4")
    assert all(stream["used"] for stream in answer["streams"].values())
    wrong = run("--model", "eyes", "--stream", f"tactile={tmp_path / 'pen.csv'}")
    detail = json.loads(wrong.stdout)["error"]["detail"]
    assert (
        detail == "The checkpoint eyes has no stream for `tactile`; its streams: left (frames), "
        "right (frames), heard (spectrogram); its fields: `clip`, `video`, `frames`, `audio`, "
        "`left`, `right`, `heard`."
    )
    assert run("--stream", "pen.csv").exit_code == 2
