"""Batches of a task's examples, as a data set of torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from model.training.task import BatchPlan, Examples


class Batches(Dataset[tuple[dict[str, Tensor], Tensor]]):
    """Batch i: a tensor [T or 1, B, C, H, W] for each stream of its plan, and labels [B]."""

    def __init__(self, examples: Examples, size: int, plan: Callable[[int], BatchPlan]) -> None:
        self.examples = examples
        self.size = size
        self.plan = plan

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        plan = self.plan(index)
        first = index * self.size
        examples = [self.examples.example(i, plan) for i in range(first, first + self.size)]
        inputs = {
            name: torch.from_numpy(np.stack([streams[name] for streams, _ in examples], axis=1))
            for name in plan.streams
        }
        return inputs, torch.tensor([label for _, label in examples])
