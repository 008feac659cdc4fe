"""Whether the visual attention map points at what the answer rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from model.preprocess.prepared import Prepared

if TYPE_CHECKING:
    from model.training.evaluate import Judge, Judged

Floats = NDArray[np.float32]
#: Share of the frame that is hidden.
HIDDEN = 0.2
_BATCH = 32


@dataclass(frozen=True)
class Faithfulness:
    """Means over `count` clips.

    `mass`: share of the map inside the digit's box; `area`: the box's share of the frame.
    `drop_top`, `drop_random`: true-class probability lost, picture alone, when the top or a
    random part (HIDDEN of the frame) is painted over with the frame's mean colour.
    """

    count: int
    mass: float
    area: float
    drop_top: float
    drop_random: float


def faithfulness(judge: Judge, clips: Sequence[Judged], steps: int) -> Faithfulness:
    """Measure the visual maps of clips that have sound and picture.

    The map comes from both streams, since it says where the sound looked; the picture's own
    answer is what hiding acts on.
    """
    masses, areas, tops, randoms = [], [], [], []
    rng = np.random.default_rng(5)
    for part in range(0, len(clips), _BATCH):
        batch = clips[part : part + _BATCH]
        prepared = [judge.prepare(judged.clip, steps) for judged in batch]
        looked = judge.run(prepared, steps, explain=("attention",)).attention
        assert looked is not None
        spatial = looked["visual"].spatial
        assert spatial is not None
        seen = [clip["visual"] for clip in prepared]
        maps = [fine(grid.numpy(), view) for grid, view in zip(spatial, seen, strict=True)]
        blind = [fine(rng.permutation(g.numpy().ravel()).reshape(g.shape), view)
                 for g, view in zip(spatial, seen, strict=True)]  # fmt: skip
        labels = torch.tensor([judged.truth.label for judged in batch])
        plain, top, random = (
            _probability(judge, views, labels, steps)
            for views in (
                seen,
                [hidden(v, m) for v, m in zip(seen, maps, strict=True)],
                [hidden(v, m) for v, m in zip(seen, blind, strict=True)],
            )
        )
        tops += (plain - top).tolist()
        randoms += (plain - random).tolist()
        for judged, view, grid in zip(batch, seen, maps, strict=True):
            inside = box_mask(view, judged.truth.box)
            masses.append(float(grid[inside].sum()) / max(float(grid.sum()), 1e-12))
            areas.append(float(inside.sum() / content(view).sum()))
    return Faithfulness(len(clips), *(float(np.mean(x)) for x in (masses, areas, tops, randoms)))


def fine(grid: Floats, view: Prepared) -> Floats:
    """The map [rows, columns] at the tensor's resolution [H, W], 0 on the padding."""
    height, width = view.tensor.shape[2:]
    smooth = cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.where(content(view), smooth, 0)


def content(view: Prepared) -> NDArray[np.bool_]:
    """Where the tensor [H, W] shows the frame and not its padding."""
    height, width = view.canvas.shape[:2]
    return box_mask(view, (0.0, 0.0, float(width), float(height)))


def box_mask(view: Prepared, box: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    """Cells [H, W] whose centre lies in the box (left, top, right, bottom; frame pixels)."""
    left, top, right, bottom = box
    ys = (view.row_edges[1:] + view.row_edges[:-1]) / 2
    xs = (view.column_edges[1:] + view.column_edges[:-1]) / 2
    rows, columns = (top <= ys) & (ys <= bottom), (left <= xs) & (xs <= right)
    return np.asarray(rows[:, None] & columns[None, :])


def hidden(view: Prepared, weight: Floats) -> Prepared:
    """The view with the HIDDEN share of the frame where `weight` [H, W] is greatest painted over
    with the frame's mean colour."""
    frame = content(view)
    count = round(HIDDEN * frame.sum())
    order = np.argsort(-np.where(frame, weight, -1).ravel(), kind="stable")[:count]
    tensor = view.tensor.copy()
    flat = tensor.reshape(*tensor.shape[:2], -1)
    mean = flat[:, :, frame.ravel()].mean(2, keepdims=True)
    flat[:, :, order] = mean
    return replace(view, tensor=tensor)


def _probability(
    judge: Judge, views: Sequence[Prepared], labels: torch.Tensor, steps: int
) -> NDArray[np.float32]:
    """True-class probability [B] of the picture alone."""
    logits = judge.run([{"visual": view} for view in views], steps).logits
    chosen = torch.softmax(logits, 1).gather(1, labels[:, None])[:, 0]
    return np.asarray(chosen.numpy())
