"""Measures of an evaluation: accuracies with their 95 % intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.checkpoint import Measurement

#: Quantile of the normal distribution for a two-sided 95 % interval.
_Z = 1.959964


@dataclass(frozen=True)
class Accuracy:
    """`correct` of `count` predictions."""

    correct: int
    count: int

    @property
    def value(self) -> float:
        """Share that is correct, 0 to 1."""
        return self.correct / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval at 95 %: (low, high), within 0 to 1."""
        n, p = self.count, self.value
        centre = (p + _Z * _Z / (2 * n)) / (1 + _Z * _Z / n)
        half = _Z / (1 + _Z * _Z / n) * np.sqrt(p * (1 - p) / n + _Z * _Z / (4 * n * n))
        return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def measurement(what: str, accuracy: Accuracy, conditions: str) -> Measurement:
    """Return the entry of a checkpoint's card for an accuracy."""
    low, high = accuracy.interval
    return Measurement(
        what=what, value=accuracy.value, low=low, high=high, n=accuracy.count, conditions=conditions
    )
