"""The embedded checkpoint on the sounds of ../shared/cases, over HTTP, as a client sends them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.default_checkpoint import WEIGHTS
from tests.service.running_server import running


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with running(WEIGHTS, device="cpu") as client:
        yield client


def ask(client: httpx.Client, **files: Path) -> dict[str, Any]:
    sent = {name: (path.name, path.read_bytes()) for name, path in files.items()}
    response = client.post("/v1/classify", files=sent, data={"attention": "none"})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def uncalibrated(answer: dict[str, Any]) -> float:
    """The predicted label's softmax of the logits, which the card's temperature brings near 1."""
    terms = answer["contributions"].values()
    raised = {label: math.exp(sum(each[label] for each in terms)) for label in next(iter(terms))}
    return raised[answer["prediction"]["label"]] / sum(raised.values())


@pytest.mark.parametrize("field", ["audio", "clip"])
@pytest.mark.parametrize(
    ("name", "seconds", "probability", "stream"),
    [
        ("piped.flac", 1.98, 0.88, {"channels": 1}),
        ("seekable.flac", 1.98, 0.88, {"channels": 1}),
        ("mono_after_stereo.mp3", 2.69, 0.90, {"channels": 2, "mixed": "average"}),
        ("opposite_phase.flac", 2.03, 0.88, {"channels": 2, "mixed": "strongest channel"}),
        ("wma_end.wma", 0.427, 0.89, {"channels": 1}),
    ],
)
def test_the_whole_sound_is_heard(
    shared: Path,
    client: httpx.Client,
    field: str,
    name: str,
    seconds: float,
    probability: float,
    stream: dict[str, Any],
) -> None:
    answer = ask(client, **{field: shared / "cases" / name})
    assert answer["prediction"]["label"] == "3"
    assert uncalibrated(answer) == pytest.approx(probability, abs=0.02)
    audio = answer["streams"]["audio"]
    assert audio["duration_s"] == pytest.approx(seconds, abs=0.01)
    assert stream.items() <= audio.items()


def test_a_silent_track_is_no_sound(shared: Path, client: httpx.Client) -> None:
    silent = ask(client, clip=shared / "cases/silent_track.mp4")
    without = ask(client, clip=shared / "cases/silent_track_without_it.mp4")
    assert silent["prediction"] == without["prediction"]
    assert silent["prediction"]["label"] == "7"
    assert uncalibrated(silent) == pytest.approx(0.78, abs=0.01)
    audio = silent["streams"]["audio"]
    assert audio["used"] is False
    assert "silent" in audio["reason"]
