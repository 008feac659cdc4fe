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
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == labels
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    filled = np.maximum(counts, 1)
    confidences = np.bincount(bins, confidence, BINS) / filled
    accuracies = np.bincount(bins, correct, BINS) / filled
    error = float((counts * np.abs(confidences - accuracies)).sum() / len(labels))
    return Reliability(
        tuple(counts.tolist()), tuple(confidences.tolist()), tuple(accuracies.tolist()), error
    )
