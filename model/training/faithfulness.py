"""Faithfulness of maps: whether they point at what the prediction rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, TypeAlias, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.arrays import Float32Array
from model.calibration import tempered
from model.network import Output
from model.preprocess.prepared import Prepared
from model.training.evaluator import BATCH_SIZE, EvaluatedClip, Evaluator

#: Maps over a stream: of the attention of the others to it, and of what each part of it adds to a
#: class's logit.
MapKind: TypeAlias = Literal["attention", "class activation"]
MAP_KINDS: tuple[MapKind, ...] = get_args(MapKind)
#: Share of the frame that is hidden.
HIDDEN = 0.2


@dataclass(frozen=True)
class Faithfulness:
    """Means over `count` clips.

    `mass`: share of what is positive in the map inside the object's box; `area`: the box's share of
    the frame.
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


def maps_on(stream: str, output: Output, labels: Tensor) -> dict[MapKind, Tensor]:
    """Return the maps [B, rows, columns] on a stream that the output has, by their kind.

    Class activation maps are of the classes `labels` [B].
    """
    maps: dict[MapKind, Tensor] = {}
    attention = output.attention.get(stream) if output.attention else None
    if attention is not None and attention.spatial is not None:
        maps["attention"] = attention.spatial
    if stream in output.token_logits:
        maps["class activation"] = output.token_logits[stream][
            torch.arange(len(labels)), :, :, labels
        ]
    return maps


def faithfulness(
    evaluator: Evaluator, clips: Sequence[EvaluatedClip], steps: int, stream: str
) -> dict[MapKind, Faithfulness]:
    """Return the means of `faithfulness_by_clip`."""
    return {
        kind: Faithfulness(
            len(clips), *(float(np.mean(getattr(values, each.name))) for each in fields(values))
        )
        for kind, values in faithfulness_by_clip(evaluator, clips, steps, stream).items()
    }


def faithfulness_by_clip(
    evaluator: Evaluator, clips: Sequence[EvaluatedClip], steps: int, stream: str
) -> dict[MapKind, FaithfulnessByClip]:
    """Measure the maps on `stream` of clips that have a box in its frame, by kind of map: attention
    maps, and class activation maps of the true class, as far as the network has them.

    The maps are computed with all streams, since attention shows where the others attend. The
    effect of hiding is measured on the prediction of `stream` alone.
    """
    parts: dict[MapKind, list[FaithfulnessByClip]] = {}
    rng = np.random.default_rng(5)
    for first in range(0, len(clips), BATCH_SIZE):
        batch = clips[first : first + BATCH_SIZE]
        prepared = [evaluator.prepare(decoded.clip, steps) for decoded in batch]
        views = [streams[stream] for streams in prepared]
        labels = torch.tensor([decoded.truth.label for decoded in batch])
        output = evaluator.run(prepared, steps, explain=("attention",))
        plain = _probability(evaluator, stream, views, labels, steps)
        for kind, grids in maps_on(stream, output, labels).items():
            maps = [upsample(x.numpy(), view) for x, view in zip(grids, views, strict=True)]
            shuffled = [upsample(_shuffle(x.numpy(), rng), view)
                        for x, view in zip(grids, views, strict=True)]  # fmt: skip
            top, random = (
                _probability(
                    evaluator, stream,
                    [hide(view, x) for view, x in zip(views, weights, strict=True)],
                    labels, steps,
                )
                for weights in (maps, shuffled)
            )  # fmt: skip
            inside = [_inside(decoded, view) for decoded, view in zip(batch, views, strict=True)]
            parts.setdefault(kind, []).append(
                FaithfulnessByClip(
                    np.array([_mass(x, box) for x, box in zip(maps, inside, strict=True)]),
                    np.array([box.sum() / content_mask(view).sum()
                              for box, view in zip(inside, views, strict=True)]),
                    np.asarray(plain - top, np.float64),
                    np.asarray(plain - random, np.float64),
                )
            )  # fmt: skip
    return {kind: _joined(measured) for kind, measured in parts.items()}


def _joined(parts: Sequence[FaithfulnessByClip]) -> FaithfulnessByClip:
    """Return the values of batches, one after the other."""
    names = (each.name for each in fields(FaithfulnessByClip))
    return FaithfulnessByClip(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in names)
    )


def _inside(decoded: EvaluatedClip, view: Prepared) -> NDArray[np.bool_]:
    """Return the cells [H, W] inside the clip's box."""
    assert decoded.truth.box is not None
    return box_mask(view, decoded.truth.box)


def _mass(weights: Float32Array, inside: NDArray[np.bool_]) -> float:
    """Return the share of what is positive in a map [H, W] that lies inside."""
    positive = weights.clip(min=0)
    return float(positive[inside].sum()) / max(float(positive.sum()), 1e-12)


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
    order = np.argsort(-np.where(frame, weight, -np.inf).ravel(), kind="stable")[:count]
    tensor = view.tensor.copy()
    flat = tensor.reshape(*tensor.shape[:2], -1)
    mean = flat[:, :, frame.ravel()].mean(2, keepdims=True)
    flat[:, :, order] = mean
    return replace(view, tensor=tensor)


def _probability(
    evaluator: Evaluator,
    stream: str,
    views: Sequence[Prepared],
    labels: Tensor,
    steps: int,
) -> NDArray[np.float32]:
    """Return the probability [B] of the true class with one stream alone."""
    output = evaluator.run([{stream: view} for view in views], steps)
    # By the temperature alone: what is hidden is also far from known clips.
    logits = tempered(output, evaluator.card, steps)
    true_class = torch.softmax(logits, 1).gather(1, labels[:, None])[:, 0]
    return np.asarray(true_class.numpy())
