"""A stream of a new kind, whose spec, preprocessing and reader are all its own, end to end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from model.checkpoint import Card, read_card
from model.config import Config, StreamConfig
from model.preprocess import specs
from model.preprocess.specs import Specs
from tests.service import checkpoints
from tests.service.checkpoints import CONFIG, SPECS
from tests.service.motion import MotionSpec, motion_kind, npy, shake
from tests.service.running_server import running

SPEC = MotionSpec(sample_rate=50, maximum=10.0, size=(8, 96))


def test_every_kind_has_a_name_of_its_own() -> None:
    with motion_kind():
        names = [spec.model_fields["kind"].default for spec in specs.KINDS]  # type: ignore[attr-defined]
    assert names == ["spectrogram", "frames", "events", "audio_events", "series", "motion"]


def test_a_kind_that_is_not_in_the_table_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="'frames', 'events', 'audio_events', 'series'"):
        TypeAdapter(Specs).validate_python({"motion": SPEC.model_dump()})


def test_a_kind_is_found_by_its_name_and_its_fields_are_checked() -> None:
    with motion_kind():
        kinds = TypeAdapter(Specs)
        assert kinds.validate_json(f'{{"motion": {SPEC.model_dump_json()}}}') == {"motion": SPEC}
        with pytest.raises(ValidationError) as caught:
            kinds.validate_python({"motion": SPEC.model_dump() | {"maximum": 0}})
    assert [error["loc"] for error in caught.value.errors()] == [("motion", "motion", "maximum")]


@pytest.fixture(scope="module")
def motion_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a service of a checkpoint with a stream of the kind."""
    folder = tmp_path_factory.mktemp("motion")
    motion = StreamConfig(channels=1, size=SPEC.size, splitting="shallow")
    config = Config(streams={**CONFIG.streams, "motion": motion}, classes=10, embed_dim=16, heads=4)
    with motion_kind():
        checkpoints.save(folder / "avdigits", config=config, streams={**SPECS, "motion": SPEC})
        card = read_card(folder / "avdigits")
        assert isinstance(card, Card)
        assert card.streams["motion"] == SPEC
        with running(folder, compile="off", decode_workers=1) as client:
            yield client


def ask(service: httpx.Client, files: dict[str, bytes], **values: str) -> dict[str, Any]:
    response = service.post("/v1/classify", files=files, data=values)
    assert response.status_code == 200, response.text
    return dict(response.json())


def test_it_is_classified_with_contributions_and_a_map(
    motion_service: httpx.Client, clip: bytes
) -> None:
    files = {"clip": clip, "motion": npy(shake())}
    answer = ask(motion_service, files, attention="overlay")
    assert set(answer["contributions"]) == {"audio", "visual", "motion", "bias"}
    assert any(answer["contributions"]["motion"].values())
    assert answer["streams"]["motion"] == {"used": True, "channels": 8}
    spatial = answer["attention"]["motion"]["spatial"]
    assert (spatial["rows"], spatial["columns"]) == ("channel", "time_s")
    assert (spatial["row_edges"][-1], spatial["column_edges"][-1]) == (8, 2)
    assert np.sum(spatial["values"]) == pytest.approx(1, abs=1e-5)
    assert answer["attention"]["motion"]["overlay_png"]


def test_what_moves_changes_the_answer(motion_service: httpx.Client, clip: bytes) -> None:
    one, other = (
        ask(motion_service, {"clip": clip, "motion": npy(shake() * scale)})["contributions"]
        for scale in (np.float32(1), np.float32(-0.5))
    )
    assert one["motion"] != other["motion"]


def test_it_may_be_missing_or_empty(motion_service: httpx.Client, clip: bytes) -> None:
    missing = ask(motion_service, {"clip": clip})
    assert missing["streams"]["motion"] == {"used": False, "reason": "no `motion` was sent"}
    empty = ask(motion_service, {"clip": clip, "motion": npy(np.zeros((9, 8), np.float32))})
    assert empty["streams"]["motion"]["reason"] == "nothing moved"
    assert empty["contributions"] == missing["contributions"]


@pytest.mark.parametrize(
    ("file", "status"),
    [(b"\0not an array", 415), (npy(np.zeros((3, 6, 8), np.float32)), 422)],
)
def test_its_reader_rejects_a_file_by_its_field(
    motion_service: httpx.Client, clip: bytes, file: bytes, status: int
) -> None:
    response = motion_service.post("/v1/classify", files={"clip": clip, "motion": file})
    problem = response.json()
    assert (response.status_code, problem["field"]) == (status, "motion")
    assert problem["detail"].startswith("`motion`: ")


def test_the_kind_is_named_where_nothing_was_sent(motion_service: httpx.Client) -> None:
    assert "`motion` for motion" in motion_service.post("/v1/classify").json()["detail"]
    card = motion_service.get("/v1/models/avdigits").json()
    assert card["streams"]["motion"] == SPEC.model_dump(mode="json")
