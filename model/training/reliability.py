"""Calibration: whether the probability of an answer is the share of such answers that is right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

#: Bins of equal width that answers are sorted into by their probability.
BINS = 15
#: Draws of right and wrong answers over which the error by chance is the mean.
_DRAWS = 200


@dataclass(frozen=True)
class Reliability:
    """By bin of confidence: the number of clips, their mean confidence, and the share correct.

    `error`: the expected calibration error, 0 to 1 (arXiv 1706.04599): the mean over all clips of
    the distance between the last two in their bin. `chance`: the error that answers of these
    confidences have on average where each is right with just this probability; it is above 0, since
    a bin has few clips.
    """

    counts: tuple[int, ...]
    confidences: tuple[float, ...]
    accuracies: tuple[float, ...]
    error: float
    chance: float


def reliability(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Reliability:
    """Return the reliability of the answers of logits [n, classes] to clips of labels [n]."""
    probabilities = softmax(logits.astype(np.float64), axis=1)
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == labels
    bins = _bins(confidence)
    counts = np.bincount(bins, minlength=BINS)
    filled = np.maximum(counts, 1)
    rng = np.random.default_rng(0)
    drawn = [
        _error(bins, confidence, rng.random(len(confidence)) < confidence) for _ in range(_DRAWS)
    ]
    return Reliability(
        counts=tuple(counts.tolist()),
        confidences=tuple((np.bincount(bins, confidence, BINS) / filled).tolist()),
        accuracies=tuple((np.bincount(bins, correct, BINS) / filled).tolist()),
        error=_error(bins, confidence, correct),
        chance=float(np.mean(drawn)),
    )


def gaps_by_bin(
    confidence: NDArray[np.float64], correct: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return how far the confidence [n], 0 to 1, of each answer is above its `correct` [n], 1 or 0,
    in the column of its bin [n, BINS], beside zeros.

    The expected calibration error is the sum of the columns' absolute sums, over n.
    """
    gaps = np.zeros((len(confidence), BINS))
    gaps[np.arange(len(confidence)), _bins(confidence)] = confidence - correct
    return gaps


def _bins(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)


def _error(
    bins: NDArray[np.int64],
    confidence: NDArray[np.float64],
    correct: NDArray[np.float64] | NDArray[np.bool_],
) -> float:
    distance = np.abs(np.bincount(bins, confidence - correct, BINS))
    return float(distance.sum() / len(confidence))
