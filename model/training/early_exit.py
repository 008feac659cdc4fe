"""Steps saved against accuracy lost, where clips stop after fewer time steps (`exit_margin`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.arrays import Float64Array
from model.early_exit import exit_schedule
from model.training.evaluator import BATCH_SIZE, EvaluatedClip, Evaluator


@dataclass(frozen=True)
class Exit:
    """The result of a margin for each clip [n]: whether its answer is right (1 or 0), the T of the
    answer, and the steps of all its runs (each run begins at step 1). Without a margin (None) every
    clip has one run of T steps."""

    margin: float | None
    right: Float64Array
    answered_after: Float64Array
    steps_run: Float64Array


def exits(
    evaluator: Evaluator, clips: Sequence[EvaluatedClip], steps: int, margins: Sequence[float]
) -> list[Exit]:
    """Return the outcome of each margin on clips decoded for T = `steps`, and last of all steps.

    As the service does, the network runs on the first 1, 2, 4, … steps of a clip's input, with the
    temperature of that T, and the clip stops where its highest probability exceeds the next by the
    margin.
    """
    stops = exit_schedule(steps)
    labels = np.asarray([clip.truth.label for clip in clips], np.int64)
    answers = [_answers(evaluator, clips, steps, stop) for stop in stops]
    all_steps = np.full(len(labels), steps, np.float64)
    right = np.asarray(answers[-1][0] == labels, np.float64)
    early = [_exit(margin, stops, answers, labels) for margin in margins]
    return [*early, Exit(None, right, all_steps, all_steps)]


def _answers(
    evaluator: Evaluator, clips: Sequence[EvaluatedClip], steps: int, stop: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return class [n] and margin [n] of each clip after its first `stop` steps."""
    classes, margins = [], []
    for first in range(0, len(clips), BATCH_SIZE):
        batch = [evaluator.prepare(clip.clip, steps) for clip in clips[first : first + BATCH_SIZE]]
        inputs = {name: x[:stop] for name, x in evaluator.encode(batch, steps).items()}
        output = evaluator.engine.run(inputs, steps=stop)
        probabilities = evaluator.calibrate(output, stop).softmax(1)
        top = probabilities.topk(2, 1)
        classes.append(top.indices[:, 0].numpy())
        margins.append((top.values[:, 0] - top.values[:, 1]).numpy())
    return np.concatenate(classes), np.concatenate(margins)


def _exit(
    margin: float,
    stops: Sequence[int],
    answers: Sequence[tuple[NDArray[np.int64], NDArray[np.float32]]],
    labels: NDArray[np.int64],
) -> Exit:
    """Let each clip stop at its first stop with this margin, at the last one at the latest."""
    reached = np.stack([margins >= margin for _, margins in answers])  # [stops, n]
    reached[-1] = True
    chosen = reached.argmax(0)
    classes = np.stack([of_stop for of_stop, _ in answers])[chosen, np.arange(len(labels))]
    return Exit(
        margin=margin,
        right=np.asarray(classes == labels, np.float64),
        answered_after=np.array(stops, np.float64)[chosen],
        steps_run=np.cumsum(stops).astype(np.float64)[chosen],
    )
