"""Estimates of a study: means over seeds, with intervals over clips and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.training.reliability import calibration_error

Floats = NDArray[np.float64]

#: Resamples of clips and seeds.
_RESAMPLES = 500
#: Quantile of the normal distribution for a two-sided 95 % interval.
_Z = 1.959964


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, the half width of its 95 % interval, and the number of clips.

    `differs`: the interval of the difference to the reference variant does not hold 0.
    """

    value: float
    half: float
    clips: int
    seeds: int
    differs: bool = False


def estimate(runs: Sequence[Floats], reference: Sequence[Floats] | None = None) -> Estimate | None:
    """Return the estimate of a measure from its values by clip, for each seed.

    Values [n] are averaged; of values [n, 2], confidence and whether the answer is right, the
    expected calibration error is taken. The interval is ±1.96 standard errors of a bootstrap over
    clips, the same for all seeds, and, of several seeds, over seeds. None where values are missing
    (NaN). `reference`: the same of the variant to compare with, on the same clips.
    """
    if not all(np.isfinite(values).any() for values in runs):
        return None
    resamples = _resamples(len(runs), len(runs[0]))
    half = _Z * max(_error(runs, resamples), _least_error(runs))
    differs = False
    if reference is not None and len(reference) == len(runs):
        differences = [_statistic(runs, *each) - _statistic(reference, *each) for each in resamples]
        difference = _value(runs) - _value(reference)
        differs = bool(abs(difference) > _Z * float(np.std(differences)) > 0)
    return Estimate(_value(runs), half, len(runs[0]), len(runs), differs)


def _resamples(seeds: int, clips: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    rng = np.random.default_rng([seeds, clips])
    return [(rng.integers(0, seeds, seeds), rng.integers(0, clips, clips))
            for _ in range(_RESAMPLES)]  # fmt: skip


def _error(
    runs: Sequence[Floats], resamples: list[tuple[NDArray[np.int64], NDArray[np.int64]]]
) -> float:
    return float(np.nanstd([_statistic(runs, *each) for each in resamples]))


def _least_error(runs: Sequence[Floats]) -> float:
    """Return the standard error of a share after two more clips of each kind (Agresti, Coull): a
    bootstrap of clips that are all right would have none. 0 of other measures."""
    first = runs[0]
    if first.ndim > 1 or not np.isin(first, (0, 1)).all():
        return 0.0
    count = len(first) + 4
    share = (float(np.mean(runs)) * len(first) + 2) / count
    return float(np.sqrt(share * (1 - share) / count))


def _value(runs: Sequence[Floats]) -> float:
    return _statistic(runs, np.arange(len(runs)), np.arange(len(runs[0])))


def _statistic(runs: Sequence[Floats], seeds: NDArray[np.int64], rows: NDArray[np.int64]) -> float:
    return float(np.mean([_of_one(runs[seed][rows]) for seed in seeds]))


def _of_one(values: Floats) -> float:
    if values.ndim == 1:
        present = values[np.isfinite(values)]
        return float(present.mean()) if len(present) else np.nan
    return calibration_error(values[:, 0], values[:, 1])
