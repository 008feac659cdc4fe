"""Fit a temperature, by which logits are divided before the softmax (arXiv 1706.04599)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

#: Fewest clips for a temperature that is sure.
SURE = 20
#: Range in which temperatures are sought.
_LOWEST, _HIGHEST = 0.05, 20.0


def fit_temperature(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Return the temperature with the lowest cross-entropy of logits [n, classes], 0.05 to 20.

    A tenth of a clip that belongs equally to all classes is added: without it, the best temperature
    of answers that are all right would be 0. To fewer clips than SURE a whole one is added, as a
    few right answers prove little.
    """
    rows = np.arange(len(labels))
    precise = logits.astype(np.float64)
    added = 0.1 if len(labels) >= SURE else 1.0
    share = added / (len(labels) + added)

    def cross_entropy(log_temperature: float) -> float:
        scaled = log_softmax(precise / np.exp(log_temperature), axis=1)
        return float(-(1 - share) * scaled[rows, labels].mean() - share * scaled.mean())

    bounds = (np.log(_LOWEST), np.log(_HIGHEST))
    return float(np.exp(minimize_scalar(cross_entropy, bounds=bounds, method="bounded").x))
