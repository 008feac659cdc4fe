"""Batches of a task's examples, as a data set of torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from model.encoding import Encoding, encode
from model.training.task import BatchPlan, Examples


class Batches(Dataset[tuple[dict[str, Tensor], Tensor]]):
    """Batch i: a tensor [T or 1, B, C, H, W] for each stream of its plan, and labels [B]."""

    def __init__(
        self,
        examples: Examples,
        size: int,
        plan: Callable[[int], BatchPlan],
        encoding: str = "direct",
    ) -> None:
        self.examples = examples
        self.size = size
        self.plan = plan
        self.encoding = encoding

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        first = index * self.size
        indices = range(first, first + self.size)
        return collate(self.examples, indices, self.plan(index), self.encoding)


def collate(
    examples: Examples, indices: Sequence[int], plan: BatchPlan, encoding: str
) -> tuple[dict[str, Tensor], Tensor]:
    """Return these examples, encoded, as one batch. Direct encoding leaves a single frame alone,
    unless others of the batch have a frame for each step."""
    drawn = [examples.example(i, plan) for i in indices]
    inputs = {}
    for name in plan.streams:
        if encoding == "direct":
            inputs[name] = torch.from_numpy(_stack([x[name] for x, _ in drawn]))
        else:
            kind = cast(Encoding, encoding)
            clips = [encode(x[name], plan.steps, kind) for x, _ in drawn]
            inputs[name] = torch.from_numpy(np.stack(clips, axis=1))
    return inputs, torch.tensor([label for _, label in drawn])


def _stack(tensors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Stack tensors [T or 1, C, H, W] to [T or 1, B, C, H, W]."""
    steps = max(len(tensor) for tensor in tensors)
    repeated = [np.broadcast_to(tensor, (steps, *tensor.shape[1:])) for tensor in tensors]
    return np.stack(repeated, axis=1)
