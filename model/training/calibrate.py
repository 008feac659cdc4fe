"""`scmrl calibrate`: fit temperatures and the OOD score of a checkpoint to development clips."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

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
    run_known_clips,
)
from model.training.out_of_distribution.features import (
    FEWEST,
    FEWEST_HELD_OUT,
    ClipOutputs,
    fit_feature_references,
    ood_references,
    too_few,
)
from model.training.out_of_distribution.logits import TOO_FEW_LOGITS, fit_logit_references
from model.training.progress import track
from model.training.reliability import reliability
from model.training.task import (
    BatchPlan,
    ClipExamples,
    Data,
    DataError,
    Examples,
    LabelledClip,
    streams_alone,
)
from model.training.temperature import SURE, fit_temperature

#: Clips per run: at T = 64 they need much memory.
_BATCH = 8
#: Beginnings of notes in the card.
_NOTE, _SCORE = "calibration: ", "out-of-distribution score"
_NO_SCORE = f"no {_SCORE}"
#: What to do where there are too few development clips.
_MORE = "add clips, or train with a higher --development-share"


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
    if count < FEWEST_HELD_OUT:
        few = f"{count} development clips: {FEWEST_HELD_OUT} are needed to calibrate"
        raise DataError(f"{few}; {_MORE}")
    fits: list[Fit] = []
    is_kept = bool(options.folds) or card.steps not in options.time_steps
    fitted = _OODFit(card.domain if is_kept else None, is_kept=is_kept)
    for steps in options.time_steps:
        outputs, labels = _joined([_run_clips(part.evaluator, part.clips, steps) for part in parts])
        if steps == card.steps and not options.folds:
            fitted = _fit_ood_score(evaluator, parts[0], outputs, labels, options)
        for alone, output in outputs.items():
            growth = fitted.growths.get(alone) if steps == card.steps else None
            fits.append(_fit(alone, steps, output.logits.numpy(), labels, growth))
    console.print(table(fits, evaluator))
    notes = [f"the probabilities are unsure: {_few(count)}"] if count < SURE else []
    notes += [fitted.note] if fitted.note else []
    for note in notes:
        console.print(f"warning: {note}", style="yellow", markup=False)
    if count < SURE:
        console.print(f"what helps: {_MORE}", markup=False)
    if fitted.references is None and card.steps not in options.time_steps:
        console.print(f"{_NO_SCORE}: --steps without the card's T, {card.steps}")
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
    card = card.model_copy(
        update={
            "calibration": _merged(card.calibration, calibration),
            "domain": fitted.references,
            "notes": (*_other_notes(card, fitted.is_kept), *(f"{_NOTE}{note}" for note in notes)),
        }
    )
    return checkpoint.save(options.checkpoint, network, card)


def _other_notes(card: Card, keep_score: bool) -> tuple[str, ...]:
    """Return the notes of a card that are not of its calibration, and of a score that stays."""
    return tuple(
        note for note in card.notes if not note.startswith(_NOTE) or (keep_score and _SCORE in note)
    )


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


@dataclass(frozen=True)
class _OODFit:
    """The OOD score: its references, by stream alone the factors [n] by which the temperatures of
    the development clips grow, and what is unsure about it. `is_kept`: it is that of the card."""

    references: OODReferences | None
    growths: Mapping[str | None, Float64Array] = field(default_factory=dict)
    note: str = ""
    is_kept: bool = False


def _fit_ood_score(
    evaluator: Evaluator,
    part: _Part,
    outputs: Mapping[str | None, Output],
    labels: Int64Array,
    options: CalibrateOptions,
) -> _OODFit:
    """Fit the OOD score: by the towers' features where OOD clips can be drawn, else by the logits.

    `outputs` and `labels` are those of the part's clips.
    """
    card, count = evaluator.card, options.examples
    more = part.data.known_examples(options.cache) if count else None
    is_small = isinstance(more, ClipExamples)
    enough = is_small or len(labels) + (count if more is not None else 0) >= FEWEST
    if not count or not enough or not can_draw_outlier_clips(card):
        references = fit_logit_references(card, outputs.values(), labels)
        return _OODFit(references, note="" if references else f"{_NO_SCORE}: {TOO_FEW_LOGITS}")
    known = ClipOutputs(outputs, labels)
    if more is not None:
        names = [clip.name for clip in part.clips]
        known = run_known_clips(evaluator, known, names, more, count)
    if reason := too_few(card, known):
        return _OODFit(None, note=f"{_NO_SCORE}: {reason}")
    content = more if isinstance(more, ClipExamples) else part.data.development_examples()
    outliers = draw_outlier_clips(evaluator, content, count, options.cache)
    fits = fit_feature_references(card, known, outliers)
    factors = {alone: fit.factors[: len(labels)] for alone, fit in fits.items()}
    is_sure = not is_small or len(labels) >= SURE
    note = "" if is_sure else f"the {_SCORE} is unsure: {_few(len(labels))}"
    return _OODFit(ood_references(card, fits), factors, note)


def _few(count: int) -> str:
    return f"{count} clips chose the epoch, and {SURE} or more are needed to be sure"


def check_enough(examples: Examples, streams: Sequence[str]) -> None:
    """Raise DataError where there are too few of these examples, which repeat, to fit a
    temperature: before a training that is measured with one."""
    inputs, labels = collate(examples, range(SURE), BatchPlan(tuple(streams), 1), "direct")
    count = len({_digest(inputs, row) for row in range(len(labels))})
    if count < SURE:
        raise DataError(f"{count} development clips: {SURE} are needed to calibrate")


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
    if len(labels) < SURE:
        raise DataError(f"{len(labels)} development clips: {SURE} are needed to calibrate")
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
    within = within if within.any() else ~within
    scaled = (logits / growth[:, None]).astype(np.float32)
    for half in (0, 1):
        in_half, in_other_half = rows % 2 == half, (rows % 2 != half) & within
        if in_other_half.any():
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
    title = "Calibration on the development clips (ECE: expected calibration error)"
    columns = "streams", "T", "accuracy", "temperature", "ECE before", "ECE after"
    shown = Table(*columns, title=title, title_justify="left", title_style="")
    for fit in fits:
        task = evaluator.task
        name = all_streams(task) if fit.alone is None else f"{task.titles[fit.alone]} alone"
        shown.add_row(
            name, str(fit.steps), f"{fit.accuracy:.1%}", f"{fit.temperature:.3f}",
            f"{fit.before:.1%}", f"{fit.after:.1%}",
        )  # fmt: skip
    return shown
