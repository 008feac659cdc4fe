"""Estimates of a study: means over seeds, with intervals over clips and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import t as student

from model.arrays import Float64Array
from model.training.reliability import gaps_by_bin

#: Resamples of clips.
_RESAMPLES = 500


@dataclass(frozen=True)
class Difference:
    """The mean over seeds of a difference, and the half width of its 95 % interval."""

    value: float
    half: float

    @property
    def is_sure(self) -> bool:
        """Whether the interval excludes 0."""
        return abs(self.value) > self.half


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, the half width of its 95 % interval, and the number of clips.

    `difference`: to the same measure of the reference variant; None of that variant itself.
    """

    value: float
    half: float
    clips: int
    seeds: int
    difference: Difference | None = None


def estimate(
    runs: Sequence[Float64Array],
    reference: Sequence[Float64Array] | None = None,
    *,
    share: bool = False,
) -> Estimate | None:
    """Return the estimate of a measure from its values by clip, for each seed.

    Values [n] are averaged; of values [n, 2], confidence and whether the answer is right, the
    expected calibration error is taken. None where values are missing (NaN).

    The variance is the sum of two: over clips, by a bootstrap of clips, the same for all seeds;
    and, of several seeds, that of the mean of their values. The interval is of Student's t with
    the degrees of freedom of this sum (Welch, Satterthwaite), few where few seeds disagree.

    `reference`: the values of the variant to compare with, of the same seeds and clips. The
    difference is estimated likewise, by pairs. `share`: the values are 1 or 0.
    """
    if not all(np.isfinite(values).any() for values in runs):
        return None
    clips = len(runs[0])
    counts = _resamples(clips)
    resampled = _statistics(runs, counts)
    by_seed = _statistics(runs, np.ones((1, clips)))[:, 0]
    variance = max(_variance(resampled), _least_variance(runs) if share else 0.0)
    difference = None
    if reference is not None and len(reference) == len(runs):
        differences = by_seed - _statistics(reference, np.ones((1, clips)))[:, 0]
        of_pairs = max(
            _variance(resampled - _statistics(reference, counts)),
            _least_paired_variance(runs, reference) if share else 0.0,
        )
        difference = Difference(*_interval(differences, of_pairs, clips))
    return Estimate(*_interval(by_seed, variance, clips), clips, len(runs), difference)


def _interval(by_seed: Float64Array, over_clips: float, clips: int) -> tuple[float, float]:
    """Return the mean of the seeds' values [seeds] and the half width of its interval."""
    value, seeds = float(by_seed.mean()), len(by_seed)
    over_seeds = float(by_seed.var(ddof=1)) / seeds if seeds > 1 else 0.0
    variance = over_clips + over_seeds
    if variance == 0:
        return value, 0.0
    freedom = variance**2 / (over_clips**2 / max(1, clips - 1) + over_seeds**2 / max(1, seeds - 1))
    return value, float(student.ppf(0.975, freedom) * np.sqrt(variance))


@lru_cache(maxsize=4)
def _resamples(clips: int) -> Float64Array:
    """Return how often each clip is in each resample [resamples, clips]."""
    rng = np.random.default_rng(clips)
    return rng.multinomial(clips, np.full(clips, 1 / clips), _RESAMPLES).astype(np.float64)


def _statistics(runs: Sequence[Float64Array], counts: Float64Array) -> Float64Array:
    """Return the statistic [seeds, resamples] of clips that are there `counts` times."""
    return np.stack([_of_one(values, counts) for values in runs])


def _of_one(values: Float64Array, counts: Float64Array) -> Float64Array:
    if values.ndim == 1:
        present = np.isfinite(values)
        with np.errstate(invalid="ignore"):  # a resample may have no clip with a value
            return np.asarray(counts @ np.where(present, values, 0) / (counts @ present))
    return np.asarray(np.abs(counts @ gaps_by_bin(values[:, 0], values[:, 1])).sum(1) / len(values))


def _variance(resampled: Float64Array) -> float:
    """Return the variance of the mean over seeds [seeds, resamples] over the resamples."""
    return float(np.nanvar(resampled.mean(0)))


def _least_variance(runs: Sequence[Float64Array]) -> float:
    """Return the variance of a share after two more clips of each kind (Agresti, Coull): a
    bootstrap of clips that are all right would have none."""
    count = len(runs[0]) + 4
    share = (float(np.mean(runs)) * len(runs[0]) + 2) / count
    return float(share * (1 - share) / count)


def _least_paired_variance(
    runs: Sequence[Float64Array], reference: Sequence[Float64Array]
) -> float:
    """Return the variance of a difference of shares after two more clips, half a clip of each pair
    of values (Agresti, Min): a bootstrap of equal values would have none."""
    differences = np.stack(runs) - np.stack(reference)  # [seeds, n]
    count = differences.shape[1] + 2
    unequal = float(np.abs(differences).sum(1).mean()) + 1
    total = float(differences.sum(1).mean())
    return float((unequal - total**2 / count) / count**2)
