"""The embedded checkpoint ndigits-events: files of events of this clone, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from model import checkpoint
from service.default_checkpoint import WEIGHTS
from tests.service.running_server import running

pytestmark = pytest.mark.slow

EVENTS = Path(__file__).parent / "data" / "events"
FOLDER = WEIGHTS / "ndigits-events"
URL = "/v1/models/ndigits-events/classify"


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with running(WEIGHTS, device="cpu") as client:
        yield client


def test_a_recording_of_n_mnist_and_a_cochlea_are_classified(client: httpx.Client) -> None:
    files = {
        "events": (EVENTS / "digit-7.bs2").read_bytes(),
        "audio_events": (EVENTS / "digit-7.npz").read_bytes(),
    }
    answer = client.post(URL, files=files).json()
    assert answer["prediction"]["label"] == "7"
    assert answer["steps"] == checkpoint.read_card(FOLDER).steps == 16
    assert answer["streams"]["visual"]["events"] == 3330
    assert set(answer["attention"]) == {"audio", "visual"}
    alone = client.post(URL, files={"events": files["events"]}).json()
    assert alone["streams"]["audio"]["used"] is False
    assert alone["prediction"]["label"] == "7"


def test_the_card_says_what_was_measured_and_on_what() -> None:
    card = checkpoint.read_card(FOLDER)
    measured = {m.what: m for m in card.accuracy}
    both, events, sound = (
        measured[f"accuracy, {streams}"]
        for streams in ("both streams", "events alone", "sound alone")
    )
    assert both.n == 100
    assert both.value > max(events.value, sound.value)
    for measurement in (both, events, sound):
        assert measurement.low is not None
        assert measurement.high is not None
        assert measurement.low < measurement.value <= measurement.high
    assert {"N-MNIST", "Free Spoken Digit Dataset"} <= {source.name for source in card.data}
    assert card.training is not None
    assert card.training.notes["cochlea"].startswith("simulated")
