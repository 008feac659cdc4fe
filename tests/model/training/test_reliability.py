"""The calibration error is 0 for honest probabilities and grows with overconfidence."""

from __future__ import annotations

import numpy as np
import pytest

from model.training.reliability import BINS, reliability


def logits_of(confidence: float, count: int) -> np.ndarray:
    """Answers for class 0 of two with this probability."""
    return np.tile(np.float32([np.log(confidence / (1 - confidence)), 0.0]), (count, 1))


@pytest.mark.parametrize("confidence", [0.6, 0.9, 0.999])
@pytest.mark.parametrize("correct", [0, 5, 10])
def test_the_error_is_the_distance_of_confidence_and_accuracy(
    confidence: float, correct: int
) -> None:
    labels = np.asarray([0] * correct + [1] * (10 - correct))
    result = reliability(logits_of(confidence, 10), labels)
    assert result.error == pytest.approx(abs(confidence - correct / 10), abs=1e-5)
    assert sum(result.counts) == 10
    (filled,) = np.flatnonzero(result.counts)
    assert filled == min(BINS - 1, int(np.ceil(confidence * BINS)) - 1)
    assert result.confidences[filled] == pytest.approx(confidence)
    assert result.accuracies[filled] == pytest.approx(correct / 10)


def test_bins_are_weighted_by_their_clips() -> None:
    logits = np.concatenate([logits_of(0.95, 30), logits_of(0.55, 10)])
    labels = np.concatenate([np.zeros(30, int), np.ones(10, int)])
    assert reliability(logits, labels).error == pytest.approx(0.75 * 0.05 + 0.25 * 0.55, abs=1e-5)


def test_the_error_by_chance_is_that_of_perfect_probabilities() -> None:
    random = np.random.default_rng(1)
    confidence = random.uniform(0.5, 1, 2000)
    logits = np.stack([np.log(confidence / (1 - confidence)), np.zeros(2000)], 1)
    labels = (random.random(2000) > confidence).astype(int)
    result = reliability(logits.astype(np.float32), labels)
    assert 0.005 < result.chance < 0.04
    assert result.error < 2 * result.chance
    few = reliability(logits[:100].astype(np.float32), labels[:100])
    assert few.chance > 2 * result.chance
