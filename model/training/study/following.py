"""Measure whether maps and answer follow the sound: pictures of two objects, one of them heard."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from model.arrays import Float64Array
from model.media.types import Clip
from model.preprocess.prepared import Prepared
from model.training.evaluator import Evaluator
from model.training.faithfulness import box_mask, content_mask, maps_on, upsample
from model.training.two_objects import TwoObjects


@dataclass(frozen=True)
class Following:
    """Whether maps and answer follow the sound, by picture [n]; means over both sounds.

    - `mass`: share of the attention map in the box of the object that is heard; `other`: in the
      same box when the other object is heard.
    - `correlation`: of the two maps, over the frame; NaN where a map is constant.
    - `class_mass`, `class_other`, `class_correlation`: the same for what is positive in the class
      activation maps, of the class that is answered.
    - `heard`, `seen`: share of the answers that are the object that is heard, or the other one.
    """

    mass: Float64Array
    other: Float64Array
    correlation: Float64Array
    class_mass: Float64Array
    class_other: Float64Array
    class_correlation: Float64Array
    heard: Float64Array
    seen: Float64Array


def follow(evaluator: Evaluator, pairs: list[TwoObjects], steps: int, stream: str) -> Following:
    """Measure answers, and the maps on `stream`, for both sounds of each pair.

    The measures of maps that the network does not have are NaN.
    """
    rows = [_follow_one(evaluator, pair, steps, stream) for pair in pairs]
    return Following(*(np.asarray(values, np.float64) for values in zip(*rows, strict=True)))


def _follow_one(
    evaluator: Evaluator, pair: TwoObjects, steps: int, stream: str
) -> tuple[float, ...]:
    """Return the values of a `Following`."""
    prepared = [
        evaluator.prepare(Clip(sound, pair.pictures), steps) for sound in pair.sounds
    ]  # of sounds 0 and 1
    output = evaluator.run(prepared, steps, explain=("attention",))
    labels = output.logits.argmax(1)
    answers = labels.tolist()
    heard = float(np.mean([answers[i] == pair.labels[i] for i in (0, 1)]))
    seen = float(np.mean([answers[i] == pair.labels[1 - i] for i in (0, 1)]))
    maps = maps_on(stream, output, labels)
    views = [inputs[stream] for inputs in prepared]
    return (
        *_on_boxes(maps.get("attention"), views, pair),
        *_on_boxes(maps.get("class activation"), views, pair),
        heard,
        seen,
    )


def _on_boxes(
    grids: Tensor | None, views: list[Prepared], pair: TwoObjects
) -> tuple[float, float, float]:
    """Return mass, other mass and correlation of the maps [2, rows, columns] of both sounds."""
    if grids is None:
        return np.nan, np.nan, np.nan
    maps = [_share(x.numpy(), view) for x, view in zip(grids, views, strict=True)]
    inside = [box_mask(views[0], box) for box in pair.boxes]
    mass = float(np.mean([maps[i][inside[i]].sum() for i in (0, 1)]))
    other = float(np.mean([maps[1 - i][inside[i]].sum() for i in (0, 1)]))
    frame = content_mask(views[0])
    return mass, other, _correlation(maps[0][frame], maps[1][frame])


def _share(grid: NDArray[np.float32], view: Prepared) -> Float64Array:
    """Return what is positive in a map [rows, columns] at the tensor's resolution [H, W], with a
    sum of 1 (or 0)."""
    values = upsample(grid.clip(min=0), view).astype(np.float64)
    return np.asarray(values / max(float(values.sum()), 1e-12))


def _correlation(a: Float64Array, b: Float64Array) -> float:
    if a.std() == 0 or b.std() == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
