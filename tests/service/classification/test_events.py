"""A checkpoint trained on events is served: uploads `events` and `audio_events`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.classification.upload_fields import FIELDS
from tests.fuzz.barrage import ALLOWED
from tests.fuzz.event_files import cochlea, save_checkpoint, seeds
from tests.fuzz.mutations import mutated
from tests.model.media.events import event_files
from tests.service.running_server import running

CAMERA = event_files.events(3000)
CAMERA_NPZ = event_files.npz(x=CAMERA["x"], y=CAMERA["y"], t=CAMERA["t"], p=CAMERA["on"])


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = save_checkpoint(tmp_path_factory.mktemp("events") / "digits")
    with running(folder.parent, compile="off", decode_workers=1, default_model="digits") as client:
        yield client


def ask(service: httpx.Client, files: dict[str, bytes], **values: str) -> dict[str, Any]:
    response = service.post("/v1/classify", files=files, data=values)
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_both_kinds_are_classified_with_maps(service: httpx.Client) -> None:
    files = {"events": CAMERA_NPZ, "audio_events": cochlea()}
    answer = ask(service, files, attention="overlay")
    assert answer["steps"] == 16
    assert answer["streams"]["visual"]["events"] == 3000
    assert answer["streams"]["audio"]["events"] == 800
    assert answer["streams"]["audio"]["duration_s"] == pytest.approx(0.9, abs=0.01)
    spatial = answer["attention"]["visual"]["spatial"]
    assert (spatial["rows"], spatial["columns"]) == ("y", "x")
    # The sensor of the card is smaller than what the events cover.
    assert (spatial["row_edges"][-1], spatial["column_edges"][-1]) == (260, 346)
    assert answer["attention"]["visual"]["overlay_png"]
    assert answer["attention"]["audio"]["spatial"]["rows"] == "channel"
    assert answer["attention"]["audio"]["overlay_png"]


def test_other_formats_and_one_stream_alone_answer_alike(
    service: httpx.Client, tmp_path: Path
) -> None:
    npz = ask(service, {"events": CAMERA_NPZ})
    aedat = ask(service, {"events": event_files.encode(CAMERA, tmp_path / "file.aedat4")})
    raw = ask(
        service, {"events": event_files.encode(CAMERA, tmp_path / "file.raw", version="evt3")}
    )
    assert npz["contributions"] == aedat["contributions"] == raw["contributions"]
    assert not npz["streams"]["audio"]["used"]
    assert aedat["streams"]["visual"]["width"] == 346


def test_every_format_is_answered_and_described(service: httpx.Client, tmp_path: Path) -> None:
    for file in seeds(tmp_path):
        response = service.post("/v1/classify", files=file.form(file.data))
        assert response.status_code == 200, (file.name, response.text)
    described = next(row.description for row in FIELDS if row.name == "events")
    for name in (".npz", "AEDAT 4", "AER-DAT", "EVT 2.0 or 3.0", "N-MNIST"):
        assert name in described


@pytest.mark.parametrize(
    ("files", "status", "message"),
    [
        ({"events": b"PK\x03\x04" + bytes(50)}, 422, "archive is damaged"),
        ({"events": b"% evt 2.1\n" + bytes(8)}, 415, "EVT 2.1"),
        ({"audio_events": cochlea(channels=100)}, 422, "the checkpoint takes 0 to 63"),
        ({"audio_events": event_files.npz(channel=[], t=[])}, 422, "no events"),
        ({"clip": b"anything"}, 422, "has no stream for `clip`"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_field(
    service: httpx.Client, files: dict[str, bytes], status: int, message: str
) -> None:
    response = service.post("/v1/classify", files=files)
    assert response.status_code == status, response.text
    assert message in response.json()["detail"]
    assert next(iter(files)) in response.text


def test_damaged_files_get_no_500(service: httpx.Client, tmp_path: Path) -> None:
    files = seeds(tmp_path)
    datas = [file.data for file in files]
    for number in range(60):
        index, data = mutated(datas, number)
        response = service.post("/v1/classify", files=files[index].form(data))
        assert response.status_code in ALLOWED, (files[index].name, number, response.text)
    assert service.get("/readyz").status_code == 200
