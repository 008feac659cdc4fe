"""Accuracies have Wilson's 95 % intervals."""

from __future__ import annotations

import pytest

from model.training.accuracy import Accuracy


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(50, 100, 0.4038, 0.5962), (100, 100, 0.9630, 1.0), (0, 100, 0.0, 0.0370)],
)
def test_intervals_are_wilson_s(right: int, count: int, low: float, high: float) -> None:
    assert Accuracy(right, count).interval == pytest.approx((low, high), abs=2e-4)
