"""`scmrl calibrate`: fit temperatures and the OOD score of a checkpoint to development clips."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from model import checkpoint
from model.arrays import Float32Array, Float64Array, Int64Array
from model.checkpoint import Calibration, Card, OODReferences
from model.engine.outputs import concatenate
from model.network import Output
from model.training.batches import collate
from model.training.evaluate import all_streams, load_data
from model.training.evaluation_options import CalibrateOptions
from model.training.evaluator import Evaluator, decode
from model.training.options import make_folder
from model.training.out_of_distribution.calibration_clips import (
    can_draw_outlier_clips,
    draw_outlier_clips,
    run_examples,
)
from model.training.out_of_distribution.features import (
    FEWEST,
    ClipOutputs,
    fit_feature_references,
    ood_references,
)
from model.training.out_of_distribution.logits import fit_logit_references
from model.training.progress import track
from model.training.reliability import reliability
from model.training.task import (
    BatchPlan,
    Data,
    DataError,
    Examples,
    LabelledClip,
    streams_alone,
)
from model.training.temperature import fit_temperature

#: Clips per run: at T = 64 they need much memory.
_BATCH = 8
#: Fewest clips that a temperature is fitted on.
_FEWEST = 20


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
    """Fit, print a table, write `calibration` and `domain` into the card, and return it.

    The clips are those by which the best epoch of a training is chosen, encoded and decoded as test
    clips are, never test clips themselves; with `folds`, those that each of these checkpoints left
    out. Raises CheckpointError where a checkpoint is damaged, its task is unknown or a fold is of
    another network, DataError, and OptionsError where it cannot be written.
    """
    console = console or Console()
    evaluator = Evaluator(options.checkpoint, options.device)
    make_folder("", options.checkpoint)  # it is there; it may not be writable
    card = evaluator.card
    parts = _parts(evaluator, options)
    count = sum(len(part.clips) for part in parts)
    if count < _FEWEST:
        raise DataError(f"{count} development clips: {_FEWEST} are needed to calibrate")
    fits: list[Fit] = []
    domain = card.domain if options.folds else None
    for steps in options.time_steps:
        outputs, labels = _joined([_run_clips(part.evaluator, part.clips, steps) for part in parts])
        growths: dict[str | None, Float64Array] = {}
        if steps == card.steps and not options.folds:
            domain, growths = _fit_ood_references(
                evaluator, parts[0].data, outputs, labels, options
            )
        for alone, output in outputs.items():
            growth = growths.get(alone, np.ones(len(labels)))
            fits.append(_fit(alone, steps, output.logits.numpy(), labels, growth))
    console.print(table(fits, evaluator))
    if domain is None:
        console.print(
            "no out-of-distribution score: too few clips, or --steps without the card's T"
        )
    calibration = Calibration(
        temperature={fit.steps: fit.temperature for fit in fits if fit.alone is None},
        alone={
            name: {fit.steps: fit.temperature for fit in fits if fit.alone == name}
            for name in streams_alone(evaluator.task)
        },
        fitted_on=f"{count} development clips"
        + f" that {len(parts)} networks of the same training left out" * bool(options.folds),
    )
    network, card = checkpoint.load(options.checkpoint)
    if domain is None and card.steps not in options.time_steps:
        domain = card.domain
    calibration = _merged(card.calibration, calibration)
    card = card.model_copy(update={"calibration": calibration, "domain": domain})
    return checkpoint.save(options.checkpoint, network, card)


def _merged(old: Calibration | None, new: Calibration) -> Calibration:
    """Return the new temperatures, and the old ones of other T."""
    if old is None:
        return new
    alone = {name: old.alone.get(name, {}) | new.alone.get(name, {}) for name in new.alone}
    return Calibration(
        temperature=old.temperature | new.temperature, alone=alone, fitted_on=new.fitted_on
    )


@dataclass(frozen=True)
class _Part:
    """Development clips, and the network that runs on them."""

    evaluator: Evaluator
    data: Data
    clips: Sequence[LabelledClip]


def _parts(evaluator: Evaluator, options: CalibrateOptions) -> list[_Part]:
    """Return the checkpoint's development clips, or those of each fold with its network.

    Raises CheckpointError where a fold is of another network, and DataError.
    """
    if not options.folds:
        data = load_data(evaluator, options.checkpoint, options.data)
        return [_Part(evaluator, data, list(data.development_clips(options.clips)))]
    parts = []
    for folder in options.folds:
        fold = Evaluator(folder, options.device)
        for name in ("config", "streams", "labels"):
            if getattr(fold.card, name) != getattr(evaluator.card, name):
                problem = f"is not that of {options.checkpoint}"
                raise checkpoint.CheckpointError(folder / checkpoint.CARD, name, problem)
        data = load_data(fold, folder, options.data)
        parts.append(_Part(fold, data, list(data.development_clips(options.clips))))
    return parts


def _joined(
    parts: Sequence[tuple[Mapping[str | None, Output], Int64Array]],
) -> tuple[dict[str | None, Output], Int64Array]:
    """Return the outputs and classes of all parts together."""
    outputs = {alone: concatenate([part[alone] for part, _ in parts]) for alone in parts[0][0]}
    return outputs, np.concatenate([labels for _, labels in parts])


def _run_clips(
    evaluator: Evaluator, clips: Sequence[LabelledClip], steps: int
) -> tuple[dict[str | None, Output], Int64Array]:
    """Return the network's output for encoded clips, and their classes [n].

    By the stream that was alone, and with all of them under None. Raises DataError.
    """
    outputs: dict[str | None, list[Output]] = {}
    for first in track(range(0, len(clips), _BATCH), f"T = {steps}"):
        batch = [decode(clip, steps, evaluator).clip for clip in clips[first : first + _BATCH]]
        inputs = evaluator.encode([evaluator.prepare(clip, steps) for clip in batch], steps)
        for alone, output in evaluator.run_each(inputs, steps).items():
            outputs.setdefault(alone, []).append(output)
    labels = np.array([clip.label for clip in clips])
    return {alone: concatenate(batches) for alone, batches in outputs.items()}, labels


def _fit_ood_references(
    evaluator: Evaluator,
    data: Data,
    outputs: Mapping[str | None, Output],
    labels: Int64Array,
    options: CalibrateOptions,
) -> tuple[OODReferences | None, dict[str | None, Float64Array]]:
    """Fit the OOD score: by the towers' features where OOD clips can be drawn, else by the logits.

    Returns the references, and by stream alone the factors [n] by which temperatures grow.
    """
    card = evaluator.card
    more = data.known_examples(options.cache) if options.examples else None
    count = len(labels) + (options.examples if more is not None else 0)
    if not options.examples or count < FEWEST or not can_draw_outlier_clips(card):
        return fit_logit_references(card, outputs.values(), labels), {}
    known = ClipOutputs(outputs, labels)
    if more is not None:
        known = known.joined(run_examples(evaluator, more, options.examples))
    outliers = draw_outlier_clips(evaluator, data, options.examples, options.cache)
    fits = fit_feature_references(card, known, outliers)
    factors = {alone: fit.factors[: len(labels)] for alone, fit in fits.items()}
    return ood_references(card, fits), factors


def check_enough(examples: Examples, streams: Sequence[str]) -> None:
    """Raise DataError where there are too few of these examples, which repeat, to fit a
    temperature: before a training that is measured with one."""
    inputs, labels = collate(examples, range(_FEWEST), BatchPlan(tuple(streams), 1), "direct")
    count = len({_digest(inputs, row) for row in range(len(labels))})
    if count < _FEWEST:
        raise DataError(f"{count} development clips: {_FEWEST} are needed to calibrate")


def run(
    evaluator: Evaluator, examples: Examples, count: int, steps: int
) -> tuple[dict[str | None, Output], Int64Array]:
    """Return the network's output for examples, and their classes [n].

    By the stream that was alone, and with all of them under None. There are fewer examples than
    `count` where they repeat. Raises DataError where there are too few.
    """
    alone: list[str | None] = [None, *streams_alone(evaluator.task)]
    outputs: dict[str | None, list[Output]] = {name: [] for name in alone}
    labels: list[int] = []
    for inputs, batch_labels in _batches(evaluator, examples, count, steps):
        labels += batch_labels
        for name, output in evaluator.run_each(inputs, steps).items():
            outputs[name].append(output)
    if len(labels) < _FEWEST:
        raise DataError(f"{len(labels)} development clips: {_FEWEST} are needed to calibrate")
    return {name: concatenate(batches) for name, batches in outputs.items()}, np.asarray(labels)


def _batches(
    evaluator: Evaluator, examples: Examples, count: int, steps: int
) -> Iterator[tuple[Mapping[str, torch.Tensor], list[int]]]:
    """Yield inputs and classes of the first `count` examples, until one is repeated."""
    plan = BatchPlan(tuple(evaluator.card.streams), steps)
    earlier: set[bytes] = set()
    for first in track(range(0, count, _BATCH), f"T = {steps}"):
        indices = range(first, min(first + _BATCH, count))
        inputs, labels = collate(examples, indices, plan, evaluator.card.encoding)
        digests = [_digest(inputs, row) for row in range(len(labels))]
        new = next((row for row, digest in enumerate(digests) if digest in earlier), len(digests))
        if new:
            yield {name: x[:, :new] for name, x in inputs.items()}, labels[:new].tolist()
        if new < len(digests):
            return
        earlier.update(digests)


def _digest(inputs: Mapping[str, torch.Tensor], row: int) -> bytes:
    digest = hashlib.sha256()
    for _, values in sorted(inputs.items()):
        digest.update(values[:, row].contiguous().numpy().tobytes())
    return digest.digest()


def _fit(
    alone: str | None,
    steps: int,
    logits: Float32Array,
    labels: Int64Array,
    growth: Float64Array | None = None,
) -> Fit:
    """Fit the temperature of logits [n, classes] to the clips whose temperature does not grow;
    that of clip i grows by the factor growth[i]."""
    growth = np.ones(len(labels)) if growth is None else growth
    rows, within = np.arange(len(labels)), growth == 1
    scaled = (logits / growth[:, None]).astype(np.float32)
    for half in (0, 1):
        in_half, in_other_half = rows % 2 == half, (rows % 2 != half) & within
        scaled[in_half] /= fit_temperature(logits[in_other_half], labels[in_other_half])
    return Fit(
        alone=alone,
        steps=steps,
        temperature=round(fit_temperature(logits[within], labels[within]), 4),
        accuracy=float((logits.argmax(1) == labels).mean()),
        before=reliability(logits, labels).error,
        after=reliability(scaled, labels).error,
    )


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
