"""The table of upload fields, and a stream of a new kind that is a row in it and a reader."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from model.config import Config, StreamConfig
from model.preprocess.specs import FrameSpec
from service.classification import upload_fields
from service.classification.upload_fields import InputFiles, UploadField, check_files
from service.commands import classify
from service.errors import Error, Problem
from service.http.form import VALUES, form_fields
from service.settings import Settings
from tests.service import checkpoints
from tests.service.checkpoints import CONFIG, LABELS, SPECS, STEPS
from tests.service.running_server import running
from tests.service.tactile import npy, tactile_row, touch

STREAMS = ("audio", "visual", "tactile")


def test_every_row_names_a_reader_and_settings_that_are_there() -> None:
    for row in upload_fields.FIELDS:
        assert callable(row.load_reader())
        assert row.max_bytes in Settings.model_fields
        assert row.max_files is None or row.max_files in Settings.model_fields


def test_no_upload_field_has_the_name_of_an_option() -> None:
    assert {row.name for row in upload_fields.FIELDS}.isdisjoint(VALUES)


def test_a_row_that_names_its_stream_feeds_that_one_alone() -> None:
    with tactile_row():
        rows = {row.name: row for row in upload_fields.FIELDS}
        kinds = {"tactile": "frames", "visual": "frames"}
        assert [name for name, row in rows.items() if row.feeds("tactile", kinds)] == ["tactile"]
        assert not rows["tactile"].feeds("visual", kinds)
        assert rows["clip"].feeds("visual", kinds)
        assert not rows["clip"].overlaps(rows["tactile"])
        check_files(InputFiles(clip=b"c", tactile=b"t"), Settings())
        with pytest.raises(Problem) as caught:
            check_files(InputFiles(tactile=[b"t", b"t"]), Settings())
        assert (caught.value.error, caught.value.field) == (Error.INVALID_FIELD, "tactile")


def test_a_further_stream_of_a_kind_gets_no_other_streams_file() -> None:
    kinds = {"audio": "spectrogram", "visual": "frames", "contact": "spectrogram"}
    fed = {row.name: [name for name in kinds if row.feeds(name, kinds)]
           for row in upload_fields.FIELDS}  # fmt: skip
    assert fed["clip"] == ["audio", "visual"]
    assert fed["audio"] == ["audio"]
    assert not any("contact" in names for names in fed.values())


def test_files_tell_their_sizes_and_never_their_content() -> None:
    assert repr(InputFiles(clip=b"secret", frames=[b"a", b""])) == (
        "InputFiles(clip=[6], frames=[1, 0])"
    )


def test_a_limit_of_bytes_is_the_setting_that_the_row_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = UploadField("big", ("frames",), "m:f", "A large file.", max_bytes="max_body_bytes")
    monkeypatch.setattr(upload_fields, "FIELDS", (*upload_fields.FIELDS, row))
    fields = form_fields(Settings(max_file_bytes=2048, max_body_bytes=4096))
    assert (fields.max_bytes("clip"), fields.max_bytes("big")) == (2048, 4096)


# --- a third stream, end to end ---------------------------------------------------------------


@pytest.fixture(scope="module")
def three_streams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one checkpoint of three streams with random weights."""
    spec = FrameSpec(fit="pad", size=(24, 32), frames="spread")
    tactile = StreamConfig(channels=3, size=spec.size, splitting="shallow")
    config = Config(
        streams={**CONFIG.streams, "tactile": tactile}, classes=10, embed_dim=16, heads=4
    )
    folder = tmp_path_factory.mktemp("three")
    checkpoints.save(folder / "avdigits", config=config, streams={**SPECS, "tactile": spec})
    return folder


@pytest.fixture(scope="module")
def tactile_service(three_streams: Path) -> Iterator[httpx.Client]:
    """A client of a service that has the row, with decoding processes that are forked."""
    with tactile_row(), running(three_streams, compile="off", decode_workers=1) as client:
        yield client


def ask(service: httpx.Client, files: dict[str, bytes], **values: str) -> dict[str, Any]:
    response = service.post("/v1/classify", files=files, data=values)
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_three_streams_are_classified_with_contributions_and_a_map_each(
    tactile_service: httpx.Client, clip: bytes
) -> None:
    answer = ask(tactile_service, {"clip": clip, "tactile": npy(touch())}, attention="overlay")
    assert {entry["label"] for entry in answer["probabilities"]} == set(LABELS)
    assert set(answer["contributions"]) == {*STREAMS, "bias"}
    assert all(any(answer["contributions"][name].values()) for name in STREAMS)
    assert answer["streams"]["tactile"] == {"used": True, "frames": 10, "width": 8, "height": 6}
    assert set(answer["attention"]) == set(STREAMS)
    for maps in answer["attention"].values():
        assert np.sum(maps["spatial"]["values"]) == pytest.approx(1, abs=1e-5)
        assert np.shape(maps["temporal"]["values"]) == (STEPS, STEPS)
        assert maps["overlay_png"]
    spatial = answer["attention"]["tactile"]["spatial"]
    assert (spatial["rows"], spatial["columns"]) == ("y", "x")
    assert (spatial["row_edges"][-1], spatial["column_edges"][-1]) == (6, 8)


def test_each_of_three_streams_can_be_left_out(tactile_service: httpx.Client, clip: bytes) -> None:
    files = {"clip": clip, "tactile": npy(touch())}
    answer = ask(tactile_service, files, contributions="leave_one_out")
    without = ask(tactile_service, {"clip": clip})
    changes = answer["leave_one_out"]["changes"]
    assert set(changes) == set(STREAMS)
    for label in LABELS:
        before, after = (
            sum(terms[label] for terms in each["contributions"].values())
            for each in (without, answer)
        )
        assert changes["tactile"][label] == pytest.approx(after - before, abs=1e-5)
    missing = ask(tactile_service, {"clip": clip}, contributions="leave_one_out")
    assert set(missing["leave_one_out"]["changes"]["tactile"].values()) == {0.0}
    assert any(missing["leave_one_out"]["changes"]["audio"].values())


def test_what_is_touched_changes_the_answer(tactile_service: httpx.Client, clip: bytes) -> None:
    one, other = (
        ask(tactile_service, {"clip": clip, "tactile": npy(touch(seed) * scale)})["contributions"]
        for seed, scale in ((0, 1), (1, 0.2))
    )
    assert one["tactile"] != other["tactile"]


def test_a_third_stream_may_be_missing_or_empty_or_alone(
    tactile_service: httpx.Client, clip: bytes
) -> None:
    missing = ask(tactile_service, {"clip": clip})
    assert missing["streams"]["tactile"] == {"used": False, "reason": "no `tactile` was sent"}
    assert set(missing["contributions"]["tactile"].values()) == {0.0}
    assert set(missing["attention"]) == {"audio", "visual"}

    empty = ask(tactile_service, {"clip": clip, "tactile": npy(np.zeros((3, 6, 8), np.float32))})
    assert empty["streams"]["tactile"]["used"] is False
    assert empty["streams"]["tactile"]["reason"] == "nothing touched the sensor"
    assert empty["contributions"] == missing["contributions"]

    alone = ask(tactile_service, {"tactile": npy(touch())})
    assert [name for name, stream in alone["streams"].items() if stream["used"]] == ["tactile"]


@pytest.mark.parametrize(
    ("file", "status"),
    [(b"\0not an array", 415), (npy(np.zeros((3, 6), np.float32)), 422),
     (npy(np.zeros((999, 2, 2), np.float32)), 413)],
)  # fmt: skip
def test_a_reader_rejects_a_file_by_its_field(
    tactile_service: httpx.Client, clip: bytes, file: bytes, status: int
) -> None:
    response = tactile_service.post("/v1/classify", files={"clip": clip, "tactile": file})
    problem = response.json()
    assert (response.status_code, problem["field"]) == (status, "tactile")
    assert problem["detail"].startswith("`tactile`: ")


def test_a_row_is_described_and_listed_in_errors(tactile_service: httpx.Client) -> None:
    paths = tactile_service.get("/openapi.json").json()["paths"]
    for path in ("/v1/classify", "/v1/models/{name}/classify"):
        request_body = paths[path]["post"]["requestBody"]
        assert "`tactile` for tactile" in request_body["description"]
        body = request_body["content"]["multipart/form-data"]
        assert "pressure sensor" in body["schema"]["properties"]["tactile"]["description"]
    unknown = tactile_service.post("/v1/classify", files={"klip": b"x"}).json()
    assert "tactile" in unknown["detail"]
    assert "`tactile` for tactile" in tactile_service.post("/v1/classify").json()["detail"]


@pytest.mark.slow
def test_a_file_for_a_stream_that_a_checkpoint_has_not_is_rejected(
    weights: Path, clip: bytes
) -> None:
    with tactile_row(), running(weights, compile="off", decode_workers=1) as service:
        files = {"clip": clip, "tactile": npy(touch())}
        problem = service.post("/v1/classify", files=files).json()
    assert (problem["status"], problem["field"]) == (422, "tactile")


def test_the_command_has_a_flag_for_each_row(
    three_streams: Path, clip: bytes, tmp_path: Path
) -> None:
    (tmp_path / "clip.mp4").write_bytes(clip)
    (tmp_path / "touch.npy").write_bytes(npy(touch()))
    with tactile_row():
        app = typer.Typer()
        app.callback()(lambda: None)
        classify.register(app)
        command = ["classify", "--models", three_streams, "--json", "--device", "cpu"]
        files = [tmp_path / "clip.mp4", "--tactile", tmp_path / "touch.npy"]
        result = CliRunner().invoke(app, [str(part) for part in (*command, *files)])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert answer["clip"] == str(tmp_path / "clip.mp4")
    assert all(stream["used"] for stream in answer["streams"].values())


def test_a_third_sound_without_a_field_is_said_to_be_missing(tmp_path: Path, clip: bytes) -> None:
    """It does not get the clip's sound."""
    contact = SPECS["audio"]
    stream = StreamConfig(channels=contact.channels, size=contact.size)
    config = Config(
        streams={**CONFIG.streams, "contact": stream}, classes=10, embed_dim=16, heads=4
    )
    folder = tmp_path / "avdigits"
    checkpoints.save(folder, config=config, streams={**SPECS, "contact": contact})
    with running(tmp_path, compile="off", decode_workers=1) as client:
        answer = client.post("/v1/classify", files={"clip": clip}).json()
    assert answer["streams"]["audio"]["used"]
    assert answer["streams"]["contact"] == {
        "used": False, "reason": "no upload field is for the stream contact",
    }  # fmt: skip
    assert set(answer["contributions"]["contact"].values()) == {0.0}
