"""Calibration: `scmrl calibrate` fits temperatures and the domain of a checkpoint on development
clips."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from model import checkpoint
from model.checkpoint import Calibration, Card
from model.engine.outputs import concatenate
from model.network import Output
from model.training.batches import collate
from model.training.domain import fit_domain
from model.training.evaluate import all_streams, load_data
from model.training.evaluator import Evaluator
from model.training.options import CalibrateOptions, make_folder
from model.training.reliability import reliability
from model.training.task import BatchPlan, DataError, Examples, streams_alone

#: Clips per run: at T = 64 they need much memory.
_BATCH = 8
#: Range in which temperatures are sought.
_LOWEST, _HIGHEST = 0.05, 20.0
#: Fewest clips that a temperature is fitted on.
_FEWEST = 20

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Fit:
    """A temperature for `steps` time steps with one stream `alone` (None: all of them).

    `accuracy` and expected calibration errors are of the clips that it was fitted on; that
    `after` it is of each half of them with the temperature of the other half.
    """

    alone: str | None
    steps: int
    temperature: float
    accuracy: float
    before: float
    after: float


def calibrate(options: CalibrateOptions, console: Console | None = None) -> Card:
    """Fit, print a table, write temperatures and domain into the card, and return it.

    The clips are those by which the best epoch of a training is chosen, never test clips. Raises
    CheckpointError where the checkpoint is damaged or its task is unknown, DataError, and
    OptionsError where it cannot be written.
    """
    console = console or Console()
    make_folder("checkpoint", options.checkpoint)
    evaluator = Evaluator(options.checkpoint, options.device)
    examples = load_data(evaluator, options.checkpoint, options.data).development_examples()
    fits: list[Fit] = []
    count, domain = 0, None
    for steps in options.time_steps:
        outputs, labels = run(evaluator, examples, options.clips, steps)
        count = len(labels)
        fits += [_fit(alone, steps, each.logits.numpy(), labels) for alone, each in outputs.items()]
        if steps == evaluator.card.steps:
            domain = fit_domain(evaluator.card, outputs.values(), labels)
    console.print(table(fits, evaluator))
    if domain is None:
        console.print("no out-of-domain score: too few clips, or --steps without the card's T")
    calibration = Calibration(
        temperature={fit.steps: fit.temperature for fit in fits if fit.alone is None},
        alone={
            name: {fit.steps: fit.temperature for fit in fits if fit.alone == name}
            for name in streams_alone(evaluator.task)
        },
        fitted_on=f"{count} development clips",
    )
    network, card = checkpoint.load(options.checkpoint)
    card = card.model_copy(update={"calibration": calibration, "domain": domain})
    return checkpoint.save(options.checkpoint, network, card)


def run(
    evaluator: Evaluator, examples: Examples, count: int, steps: int
) -> tuple[dict[str | None, Output], Labels]:
    """Return the network's output for examples, and their classes [n].

    By the stream that was alone, and with all of them under None. There are fewer examples than
    `count` where they repeat. Raises DataError where there are too few.
    """
    alone: list[str | None] = [None, *streams_alone(evaluator.task)]
    outputs: dict[str | None, list[Output]] = {name: [] for name in alone}
    labels: list[int] = []
    for inputs, batch_labels in _batches(evaluator, examples, count, steps):
        labels += batch_labels
        for name in alone:
            streams = inputs if name is None else {name: inputs[name]}
            outputs[name].append(evaluator.engine.run(streams, steps=steps))
    if len(labels) < _FEWEST:
        raise DataError(f"{len(labels)} development clips: {_FEWEST} are needed to calibrate")
    return {name: concatenate(each) for name, each in outputs.items()}, np.asarray(labels)


def _batches(
    evaluator: Evaluator, examples: Examples, count: int, steps: int
) -> Iterator[tuple[Mapping[str, torch.Tensor], list[int]]]:
    """Yield inputs and classes of the first `count` examples, until one is repeated."""
    plan = BatchPlan(tuple(evaluator.card.streams), steps)
    seen: set[bytes] = set()
    for first in track(range(0, count, _BATCH), f"T = {steps}", transient=True):
        indices = range(first, min(first + _BATCH, count))
        inputs, labels = collate(examples, indices, plan, evaluator.card.encoding)
        digests = [_digest(inputs, row) for row in range(len(labels))]
        new = next((row for row, each in enumerate(digests) if each in seen), len(digests))
        if new:
            yield {name: x[:, :new] for name, x in inputs.items()}, labels[:new].tolist()
        if new < len(digests):
            return
        seen.update(digests)


def _digest(inputs: Mapping[str, torch.Tensor], row: int) -> bytes:
    digest = hashlib.sha256()
    for _, values in sorted(inputs.items()):
        digest.update(values[:, row].contiguous().numpy().tobytes())
    return digest.digest()


def _fit(alone: str | None, steps: int, logits: Logits, labels: Labels) -> Fit:
    rows = np.arange(len(labels))
    scaled = logits.copy()
    for half in (0, 1):
        own, other = rows % 2 == half, rows % 2 != half
        scaled[own] /= fit_temperature(logits[other], labels[other])
    return Fit(
        alone=alone,
        steps=steps,
        temperature=round(fit_temperature(logits, labels), 4),
        accuracy=float((logits.argmax(1) == labels).mean()),
        before=reliability(logits, labels).error,
        after=reliability(scaled, labels).error,
    )


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """Return the temperature with the lowest cross-entropy of logits [n, classes] (arXiv
    1706.04599), 0.05 to 20."""
    rows = np.arange(len(labels))
    precise = logits.astype(np.float64)

    def cross_entropy(log_temperature: float) -> float:
        scaled = log_softmax(precise / np.exp(log_temperature), axis=1)
        return float(-scaled[rows, labels].mean())

    bounds = (np.log(_LOWEST), np.log(_HIGHEST))
    return float(np.exp(minimize_scalar(cross_entropy, bounds=bounds, method="bounded").x))


def table(fits: list[Fit], evaluator: Evaluator) -> Table:
    """Return the fits as a table for the terminal."""
    shown = Table("streams", "T", "accuracy", "temperature", "ECE before", "ECE after")
    for fit in fits:
        task = evaluator.task
        name = all_streams(task) if fit.alone is None else f"{task.titles[fit.alone]} alone"
        shown.add_row(
            name, str(fit.steps), f"{fit.accuracy:.1%}", f"{fit.temperature:.3f}",
            f"{fit.before:.1%}", f"{fit.after:.1%}",
        )  # fmt: skip
    return shown
