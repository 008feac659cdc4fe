"""Training examples of avdigits-tactile: those of avdigits, and the force on the pen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import numpy as np
from numpy.random import Generator

from model.arrays import Float32Array, Float64Array
from model.media.series import Series
from model.preprocess.profiles import PROFILES
from model.preprocess.series import prepare_series
from model.preprocess.specs import SeriesSpec
from model.training.avdigits.dataset import Scenes
from model.training.avdigits_tactile.pen import pen_force
from model.training.task import BatchPlan

TACTILE = cast(SeriesSpec, PROFILES["avdigits-tactile"]["tactile"])


@dataclass(frozen=True)
class WrittenScenes:
    """Examples of avdigits; `tactile` is the force that wrote the digit of the picture.

    The force of each picture is simulated once, and kept.
    """

    scenes: Scenes
    _forces: dict[bytes, Series] = field(default_factory=dict)

    def example(self, index: int, plan: BatchPlan) -> tuple[dict[str, Float32Array], int]:
        """Return tensors [T or 1, C, H, W] of the plan's streams, and the digit."""
        streams, digit = self.scenes.example(index, plan)
        if "tactile" in plan.streams:
            picture = self.scenes.picture(index)
            key = picture.tobytes()
            if key not in self._forces:
                self._forces[key] = pen_force(picture)
            rng = np.random.default_rng([self.scenes.seed, index, 2])
            augment = augmented if self.scenes.augmented else measured
            streams["tactile"] = prepare_series(augment(self._forces[key], rng), TACTILE).tensor
        return streams, digit


def measured(force: Series, rng: Generator) -> Series:
    """Return the force as a sensor measures it: of random gain, with noise of 1 % of the peak."""
    noise = 0.01 * force.values.max() * rng.standard_normal(len(force.values), np.float32)
    gain = np.float32(rng.uniform(0.3, 3))
    return Series(force.time_s, np.maximum(force.values + noise, 0) * gain)


def augmented(force: Series, rng: Generator) -> Series:
    """Return the force with random changes: the pace of the hand and its pressure, both of which
    drift, a slow sensor, and noise."""
    count = len(force.values)
    pace = _slowly(count, rng, 5, (0.8, 1.25)) * rng.uniform(0.85, 1.2)
    time_s = np.concatenate([[0.0], np.cumsum(pace[1:] * np.diff(force.time_s))])
    values = force.values * _slowly(count, rng, 4, (0.75, 1.25)).astype(np.float32)
    if rng.random() < 0.4:
        width = int(rng.integers(2, 6))
        values = np.convolve(values, np.full(width, 1 / width, np.float32), "same")
    noise = values.max() * rng.uniform(0, 0.06) * rng.standard_normal(count)
    return Series(time_s, np.maximum(values + noise, 0).astype(np.float32))


def _slowly(count: int, rng: Generator, points: int, between: tuple[float, float]) -> Float64Array:
    """Return a random curve [count]: linear between `points` values in the range `between`."""
    position = np.linspace(0, 1, count), np.linspace(0, 1, points)
    return np.asarray(np.interp(*position, rng.uniform(*between, points)), np.float64)
