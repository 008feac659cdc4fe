"""Logistic regression that separates known clips from OOD ones by a tower's features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from model.arrays import Float64Array, Int64Array
from model.checkpoint import TowerReference

#: Inverse of the strength of the penalty on squared weights.
_INVERSE_PENALTY = 0.05
#: Value that stands for 1 in the one-hot code of the predicted class.
_ONE_HOT = 5.0


@dataclass(frozen=True)
class Features:
    """Features [n, C] of clips and the classes [n] that were predicted for them."""

    values: Float64Array
    predicted: Int64Array

    def of(self, rows: NDArray[np.bool_]) -> Features:
        """Return those of these clips."""
        return Features(self.values[rows], self.predicted[rows])


@dataclass(frozen=True)
class OODRegression:
    """A fitted regression: `TowerReference` without its limit."""

    means: Float64Array
    linear: Float64Array
    quadratic: Float64Array
    bias: Float64Array

    def log_odds(self, features: Features) -> Float64Array:
        """Return the log odds [n] that clips are out of distribution."""
        offset = features.values - self.means[features.predicted]
        return np.asarray(
            self.bias[features.predicted] + offset @ self.linear + offset**2 @ self.quadratic
        )

    def reference(self, limit: float) -> TowerReference:
        """Return the reference for a card, its numbers with 4 significant digits."""
        means = tuple(_row(mean) for mean in self.means)
        linear, quadratic, bias = map(_row, (self.linear, self.quadratic, self.bias))
        return TowerReference(
            means=means, linear=linear, quadratic=quadratic, bias=bias, limit=round(limit, 4)
        )


def fit_ood_regression(
    known: Features, labels: Int64Array, outliers: Features, classes: int
) -> OODRegression:
    """Fit the regression to known clips of classes [n], and to OOD clips.

    Both sets have the same total weight. Weights of squared offsets are not negative, so a clip
    that is far from the mean in all directions is never taken for known.
    """
    means = np.stack([known.values[labels == label].mean(0) for label in range(classes)])
    x = np.concatenate([_inputs(known, means), _inputs(outliers, means)])
    is_outlier = np.repeat([False, True], [len(known.values), len(outliers.values)])
    centre, spread = x.mean(0), x.std(0) + 1e-6
    weights, constant = _regress((x - centre) / spread, is_outlier, known.values.shape[1])
    weights = weights / spread
    constant -= float(centre @ weights)
    size = known.values.shape[1]
    bias = constant + _ONE_HOT * weights[2 * size :]
    return OODRegression(means, weights[:size], weights[size : 2 * size], bias)


def _inputs(features: Features, means: Float64Array) -> Float64Array:
    """Return offsets, their squares and the predicted class, [n, 2 C + classes]."""
    offset = features.values - means[features.predicted]
    one_hot = _ONE_HOT * np.eye(len(means))[features.predicted]
    return np.concatenate([offset, offset**2, one_hot], axis=1)


def _regress(
    x: Float64Array, is_outlier: NDArray[np.bool_], size: int
) -> tuple[Float64Array, float]:
    """Return the weights [d] of inputs [n, d], and the constant; the weights of the squares of
    `size` offsets are not negative."""
    z = np.concatenate([x, np.ones((len(x), 1))], axis=1)
    sign = np.where(is_outlier, 1.0, -1.0)
    share = np.where(is_outlier, is_outlier.mean(), 1 - is_outlier.mean())

    def loss(weights: Float64Array) -> tuple[float, Float64Array]:
        margin = sign * (z @ weights)
        gradient = -(sign / share * expit(-margin)) @ z / 2
        penalty = np.append(weights[:-1], 0.0) / _INVERSE_PENALTY
        value = (np.logaddexp(0, -margin) / share).sum() / 2 + penalty @ weights / 2
        return float(value), gradient + penalty

    least = np.full(z.shape[1], -np.inf)
    least[size : 2 * size] = 0
    bounds = [(low, None) for low in least]
    fit = minimize(loss, np.zeros(z.shape[1]), jac=True, method="L-BFGS-B", bounds=bounds)
    return np.asarray(fit.x[:-1]), float(fit.x[-1])


def _row(values: Float64Array) -> tuple[float, ...]:
    return tuple(float(f"{value:.4g}") for value in values)
