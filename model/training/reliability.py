"""Calibration: whether the probability of an answer is the share of such answers that is right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

#: Bins of equal width that answers are sorted into by their probability.
BINS = 15


@dataclass(frozen=True)
class Reliability:
    """By bin of confidence: the number of clips, their mean confidence, and the share correct.

    `error`: the expected calibration error, 0 to 1 (arXiv 1706.04599): the mean over all clips of
    the distance between the last two in their bin.
    """

    counts: tuple[int, ...]
    confidences: tuple[float, ...]
    accuracies: tuple[float, ...]
    error: float


def reliability(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Reliability:
    """Return the reliability of the answers of logits [n, classes] to clips of labels [n]."""
    probabilities = softmax(logits.astype(np.float64), axis=1)
    return _by_bin(probabilities.max(1), probabilities.argmax(1) == labels)


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


def _by_bin(
    confidence: NDArray[np.float64], correct: NDArray[np.float64] | NDArray[np.bool_]
) -> Reliability:
    bins = _bins(confidence)
    counts = np.bincount(bins, minlength=BINS)
    filled = np.maximum(counts, 1)
    confidences = np.bincount(bins, confidence, BINS) / filled
    accuracies = np.bincount(bins, correct, BINS) / filled
    error = float((counts * np.abs(confidences - accuracies)).sum() / len(confidence))
    return Reliability(
        tuple(counts.tolist()), tuple(confidences.tolist()), tuple(accuracies.tolist()), error
    )


def _bins(confidence: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
