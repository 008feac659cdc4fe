"""The temperatures of a card, and logits divided by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from model.calibration import calibrated
from model.checkpoint import Calibration, Card
from model.network import Output
from tests.service import checkpoints

BOTH = ("audio", "visual")
CALIBRATION = Calibration(
    temperature={1: 0.5, 4: 0.25, 64: 0.125}, alone={"audio": {2: 2.0, 8: 4.0}}
)


def card(calibration: Calibration | None) -> Card:
    return checkpoints.card(calibration=calibration)


@pytest.mark.parametrize(
    ("steps", "alone", "temperature"),
    [
        (1, None, 0.5),
        (4, None, 0.25),
        (2, None, 0.375),  # halfway between 1 and 4, in log T
        (16, None, 0.1875),
        (64, None, 0.125),
        (1, "audio", 2.0),  # the nearest
        (4, "audio", 3.0),
        (64, "audio", 4.0),
        (4, "visual", 0.25),  # has none of its own
    ],
)
def test_temperatures_are_interpolated_over_log_t(
    steps: int, alone: str | None, temperature: float
) -> None:
    assert CALIBRATION.temperature_at(steps, alone) == pytest.approx(temperature)


def test_between_two_t_it_is_linear_in_log_t() -> None:
    share = math.log(3) / math.log(4)
    expected = (1 - share) * 0.5 + share * 0.25
    assert CALIBRATION.temperature_at(3) == pytest.approx(expected)


def output_of(logits: torch.Tensor, streams: Sequence[str]) -> Output:
    return Output(logits, torch.zeros(1), stream_logits=dict.fromkeys(streams, logits))


def test_logits_are_divided_by_the_temperature_of_t_and_of_the_streams() -> None:
    logits = torch.tensor([[1.0, -2.0]])
    with_calibration = card(CALIBRATION)
    both, audio, visual = (output_of(logits, names) for names in (BOTH, ["audio"], ["visual"]))
    assert calibrated(both, with_calibration, 4).tolist() == [[4.0, -8.0]]
    assert calibrated(audio, with_calibration, 8).tolist() == [[0.25, -0.5]]
    assert calibrated(visual, with_calibration, 4).tolist() == [[4.0, -8.0]]


def test_without_a_calibration_logits_are_as_they_are() -> None:
    output = output_of(torch.tensor([[1.0, -2.0]]), BOTH)
    assert calibrated(output, card(None), 4) is output.logits


def test_it_is_read_as_it_was_written() -> None:
    written = card(CALIBRATION).model_dump_json()
    assert '"temperature":{"1":0.5,' in written
    assert Card.model_validate_json(written).calibration == CALIBRATION


@pytest.mark.parametrize(
    "calibration",
    [
        {"temperature": {}},
        {"temperature": {"0": 1.0}},
        {"temperature": {"65": 1.0}},
        {"temperature": {"4": 0.0}},
        {"temperature": {"4": -1.0}},
        {"temperature": {"4": float("inf")}},
        {"temperature": {"four": 1.0}},
        {"temperature": {"4": 1.0}, "alone": {"tactile": {"4": 1.0}}},
        {"temperature": {"4": 1.0}, "alone": {"audio": {}}},
    ],
)
def test_an_invalid_calibration_is_refused(calibration: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="calibration"):
        checkpoints.card(calibration=calibration)
