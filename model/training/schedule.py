"""The schedule of a training run: learning rate, precision, streams, T, difficulty of each step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from model.training.options import TrainOptions
from model.training.task import BatchPlan

#: Fraction of the training after which all arithmetic is float32.
FLOAT32_FROM = 0.97
#: Fraction of the training until which sequences have one or two time steps.
SHORT_UNTIL = 0.8


@dataclass(frozen=True)
class Schedule:
    """The parameters of each optimizer step of a run. `step` counts from 0 over all epochs."""

    options: TrainOptions
    steps_per_epoch: int

    def progress(self, step: int) -> float:
        """Return the fraction of the training that is done, 0 to 1."""
        return step / (self.options.epochs * self.steps_per_epoch)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate: a linear warm-up, then a cosine down to its floor."""
        peak = self.options.peak_learning_rate
        floor = 0.01  # over the peak
        if self.options.learning_rate_floor and peak:
            floor = min(1.0, self.options.learning_rate_floor / peak)
        warmup = self.options.warmup_epochs * self.steps_per_epoch
        total = self.options.epochs * self.steps_per_epoch
        if step < warmup:
            factor = (step + 1) / warmup
        else:
            cosine = math.cos(math.pi * (step - warmup) / max(1, total - warmup))
            factor = floor + (1 - floor) / 2 * (1 + cosine)
        return peak * factor

    def bfloat16(self, step: int) -> bool:
        """Return whether the forward pass uses bfloat16.

        It is 1.5 times as fast; the last steps, in float32, correct its rounding errors.
        """
        return self.progress(step) < FLOAT32_FROM

    def plan(self, step: int) -> BatchPlan:
        """Draw the streams and T of one batch, and set its difficulty.

        Short sequences cost less and teach the early layers as much, so they come first.
        """
        rng = np.random.default_rng([self.options.seed, step, 1])
        dropout = self.options.modality_dropout
        entry = list(dropout)[int(rng.choice(len(dropout), p=list(dropout.values())))]
        progress, longest = self.progress(step), self.options.steps
        lengths: tuple[int, ...]
        if not self.options.short_sequences:
            lengths = (longest,)
        elif progress < SHORT_UNTIL:
            lengths = (1, 2, 2)
        elif progress < FLOAT32_FROM:
            lengths = (2, 2, longest)
        else:
            lengths = (2, longest, longest, longest)
        steps = min(int(rng.choice(lengths)), longest)
        # Weights of another run have already learnt the easy examples, unless of another task.
        skips_easy = self.options.init_from and not self.options.easy_start
        curriculum = self.options.curriculum
        difficulty = 1.0 if skips_easy or not curriculum else min(1.0, progress / curriculum)
        return BatchPlan(self.options.batch_streams(entry), steps, difficulty)
