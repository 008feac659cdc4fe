"""Faithfulness of attention maps: whether they point at what the prediction rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from model.arrays import Float32Array
from model.calibration import tempered
from model.preprocess.prepared import Prepared
from model.training.evaluator import BATCH_SIZE, EvaluatedClip, Evaluator

#: Share of the frame that is hidden.
HIDDEN = 0.2


@dataclass(frozen=True)
class Faithfulness:
    """Means over `count` clips.

    `mass`: share of the map inside the object's box; `area`: the box's share of the frame.
    `drop_top`, `drop_random`: true-class probability lost, with the map's stream alone, when the
    top or a random part (HIDDEN of the frame) is painted over with the frame's mean colour.
    """

    count: int
    mass: float
    area: float
    drop_top: float
    drop_random: float


@dataclass(frozen=True)
class FaithfulnessByClip:
    """The values [n] whose means are a `Faithfulness`."""

    mass: NDArray[np.float64]
    area: NDArray[np.float64]
    drop_top: NDArray[np.float64]
    drop_random: NDArray[np.float64]


def faithfulness(
    evaluator: Evaluator, clips: Sequence[EvaluatedClip], steps: int, stream: str
) -> Faithfulness:
    """Return the means of `faithfulness_by_clip`."""
    values = faithfulness_by_clip(evaluator, clips, steps, stream)
    means = (float(np.mean(getattr(values, each.name))) for each in fields(values))
    return Faithfulness(len(clips), *means)


def faithfulness_by_clip(
    evaluator: Evaluator, clips: Sequence[EvaluatedClip], steps: int, stream: str
) -> FaithfulnessByClip:
    """Measure the spatial attention maps on `stream` of clips that have a box in its frame.

    The maps are computed with all streams, since they show where the others attend. The effect of
    hiding is measured on the prediction of `stream` alone.
    """
    masses, areas, drops_top, drops_random = [], [], [], []
    rng = np.random.default_rng(5)
    for first in range(0, len(clips), BATCH_SIZE):
        batch = clips[first : first + BATCH_SIZE]
        prepared = [evaluator.prepare(decoded.clip, steps) for decoded in batch]
        attention = evaluator.run(prepared, steps, explain=("attention",)).attention
        assert attention is not None
        spatial = attention[stream].spatial  # [B, rows, columns]
        assert spatial is not None
        views = [streams[stream] for streams in prepared]
        maps = [upsample(x.numpy(), view) for x, view in zip(spatial, views, strict=True)]
        shuffled = [upsample(_shuffle(x.numpy(), rng), view)
                    for x, view in zip(spatial, views, strict=True)]  # fmt: skip
        labels = torch.tensor([decoded.truth.label for decoded in batch])
        plain, top, random = (
            _probability(evaluator, stream, tensors, labels, steps)
            for tensors in (
                views,
                [hide(view, x) for view, x in zip(views, maps, strict=True)],
                [hide(view, x) for view, x in zip(views, shuffled, strict=True)],
            )
        )
        drops_top += (plain - top).tolist()
        drops_random += (plain - random).tolist()
        for decoded, view, weights in zip(batch, views, maps, strict=True):
            assert decoded.truth.box is not None
            inside = box_mask(view, decoded.truth.box)
            masses.append(float(weights[inside].sum()) / max(float(weights.sum()), 1e-12))
            areas.append(float(inside.sum() / content_mask(view).sum()))
    columns = (masses, areas, drops_top, drops_random)
    return FaithfulnessByClip(*(np.asarray(each, np.float64) for each in columns))


def _shuffle(grid: Float32Array, rng: np.random.Generator) -> Float32Array:
    """Return the values of a map [rows, columns] in random places."""
    return rng.permutation(grid.ravel()).reshape(grid.shape)


def upsample(grid: Float32Array, view: Prepared) -> Float32Array:
    """Return a map [rows, columns] at the tensor's resolution [H, W], 0 on the padding."""
    height, width = view.tensor.shape[2:]
    smooth = cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.where(content_mask(view), smooth, 0)


def content_mask(view: Prepared) -> NDArray[np.bool_]:
    """Return where the tensor [H, W] shows the frame and not its padding."""
    height, width = view.canvas().shape[:2]
    return box_mask(view, (0.0, 0.0, float(width), float(height)))


def box_mask(view: Prepared, box: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    """Return the cells [H, W] with their centre in the box (left, top, right, bottom) in pixels."""
    left, top, right, bottom = box
    ys = (view.row_edges[1:] + view.row_edges[:-1]) / 2
    xs = (view.column_edges[1:] + view.column_edges[:-1]) / 2
    rows, columns = (top <= ys) & (ys <= bottom), (left <= xs) & (xs <= right)
    return np.asarray(rows[:, None] & columns[None, :])


def hide(view: Prepared, weight: Float32Array) -> Prepared:
    """Paint over the HIDDEN share of the frame where `weight` [H, W] is greatest.

    The paint is the mean colour of the frame.
    """
    frame = content_mask(view)
    count = round(HIDDEN * frame.sum())
    order = np.argsort(-np.where(frame, weight, -1).ravel(), kind="stable")[:count]
    tensor = view.tensor.copy()
    flat = tensor.reshape(*tensor.shape[:2], -1)
    mean = flat[:, :, frame.ravel()].mean(2, keepdims=True)
    flat[:, :, order] = mean
    return replace(view, tensor=tensor)


def _probability(
    evaluator: Evaluator,
    stream: str,
    views: Sequence[Prepared],
    labels: torch.Tensor,
    steps: int,
) -> NDArray[np.float32]:
    """Return the probability [B] of the true class with one stream alone."""
    output = evaluator.run([{stream: view} for view in views], steps)
    # By the temperature alone: what is hidden is also far from known clips.
    logits = tempered(output, evaluator.card, steps)
    true_class = torch.softmax(logits, 1).gather(1, labels[:, None])[:, 0]
    return np.asarray(true_class.numpy())
