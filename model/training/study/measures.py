"""Measurements of a run in studies of alpha, of parts and of streams."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from model import checkpoint
from model.network import Output
from model.training import calibrate
from model.training.batch_norm import recompute_batch_norm_statistics
from model.training.batches import Batches
from model.training.evaluate import off_centre
from model.training.evaluator import EvaluatedClip, Evaluator
from model.training.faithfulness import faithfulness_by_clip
from model.training.perturbations import DEGRADATIONS, Perturbation
from model.training.study.examiner import (
    CALIBRATED,
    TOGETHER,
    Examiner,
    Run,
    Values,
    answers,
    labels_of,
)
from model.training.study.following import follow
from model.training.study.residuals import residuals_of
from model.training.task import BatchPlan, Task
from model.training.temperature import fit_temperature

#: Off-centre clips for the deletion test.
_HIDDEN_CLIPS = 100


def measure_alpha(examiner: Examiner, run: Run) -> Iterator[tuple[str, Values]]:
    """Measure answers to clean and degraded clips, maps, and other statistics of the norms.

    The keys are `PART/CONDITION/STREAMS/MEASURE`.
    """
    evaluator = Evaluator(run.best, examiner.options.device)
    temperatures: dict[str, float] = {}
    yield from _clean(examiner, run, evaluator, temperatures)
    clips = examiner.decoded(evaluator)
    labels = labels_of(clips)
    for stream, condition, perturbation in _degradations(examiner.task):
        names = [name for name in examiner.names(run) if name in (TOGETHER, stream)]
        for name, logits in examiner.logits(evaluator, clips, names, perturbation).items():
            key = f"test/{examiner.task.titles[stream]} {condition}/{name}"
            yield from answers(key, logits / np.float32(temperatures.get(name, 1.0)), labels)
    yield from _maps(examiner, evaluator, clips)
    yield from _norms(examiner, run, clips, labels)


def measure_parts(examiner: Examiner, run: Run) -> Iterator[tuple[str, Values]]:
    """Measure answers to clean clips, with all streams and with each alone."""
    yield from _clean(examiner, run, Evaluator(run.best, examiner.options.device), {})


def measure_modalities(examiner: Examiner, run: Run) -> Iterator[tuple[str, Values]]:
    """Measure what `measure_parts` does, and what all streams gain over each alone, by clip."""
    measured = dict(measure_parts(examiner, run))
    yield from measured.items()
    for name in examiner.names(run):
        if name != TOGETHER and not run.only:
            together, alone = (measured[f"test/clean/{x}/accuracy"] for x in (TOGETHER, name))
            yield f"gain/clean/{name}/accuracy", together - alone


def _clean(
    examiner: Examiner, run: Run, evaluator: Evaluator, temperatures: dict[str, float]
) -> Iterator[tuple[str, Values]]:
    """Measure answers to development and test clips; put the temperatures of the former into
    `temperatures`, by streams."""
    names = examiner.names(run)
    outputs, labels = _development(examiner, evaluator)
    for name, output in outputs.items():
        if name in names:
            logits = output.logits.numpy()
            temperatures[name] = fit_temperature(logits, labels)
            yield from answers(f"development/clean/{name}", logits, labels)
    if TOGETHER in names:
        yield from residuals_of(outputs[TOGETHER])
    clips = examiner.decoded(evaluator)
    labels = labels_of(clips)
    for name, logits in examiner.logits(evaluator, clips, names).items():
        yield from answers(f"test/clean/{name}", logits, labels)
        if name in temperatures:
            calibrated = logits / np.float32(temperatures[name])
            yield from answers(f"test/clean/{name}", calibrated, labels, CALIBRATED)


def _development(
    examiner: Examiner, evaluator: Evaluator
) -> tuple[dict[str, Output], NDArray[np.int64]]:
    """Return the output for development clips with all streams (TOGETHER) and each alone, and
    their classes [n]."""
    examples = examiner.data.development_examples()
    count, steps = examiner.options.development_clips, evaluator.card.steps
    outputs, labels = calibrate.run(evaluator, examples, count, steps)
    return {name or TOGETHER: output for name, output in outputs.items()}, labels


def _degradations(task: Task) -> Iterator[tuple[str, str, Perturbation]]:
    for stream, spec in task.specs.items():
        for condition, perturbation in DEGRADATIONS.get(spec.kind, {}).items():
            yield stream, condition, perturbation


def _maps(
    examiner: Examiner, evaluator: Evaluator, clips: Sequence[EvaluatedClip]
) -> Iterator[tuple[str, Values]]:
    stream, steps = examiner.task.box_stream, evaluator.card.steps
    if stream is None:
        return
    if pairs := examiner.pairs():
        following = follow(evaluator, pairs, steps, stream)
        yield from ((f"pairs/{name}", x) for name, x in asdict(following).items())
    aside = off_centre(clips, _HIDDEN_CLIPS)
    for kind, hidden in faithfulness_by_clip(evaluator, aside, steps, stream).items():
        part = "hidden" if kind == "attention" else "hidden by class"
        yield from ((f"{part}/{name}", x) for name, x in asdict(hidden).items())


def _norms(
    examiner: Examiner, run: Run, clips: Sequence[EvaluatedClip], labels: NDArray[np.int64]
) -> Iterator[tuple[str, Values]]:
    """Measure clean clips with norms settled with all streams, and with norms by mode: those of
    batches with the streams that are used."""
    names = examiner.names(run)
    for mode in names:
        with _settled(examiner, run, mode) as evaluator:
            measured = names if mode == TOGETHER else (mode,)
            for name, logits in examiner.logits(evaluator, clips, measured).items():
                if mode == TOGETHER:
                    yield from answers(f"norms settled/clean/{name}", logits, labels)
                if mode == name:
                    yield from answers(f"norms by mode/clean/{name}", logits, labels)


@contextmanager
def _settled(examiner: Examiner, run: Run, mode: str) -> Iterator[Evaluator]:
    """Yield a checkpoint with norms settled with all streams, or with one."""
    network, card = checkpoint.load(run.best)
    options = examiner.options
    streams = tuple(examiner.task.specs) if mode == TOGETHER else (mode,)
    plan = BatchPlan(streams, card.steps)  # as difficult as in training
    examples = examiner.data.training_examples(run.seed, cache=options.out)
    batches = Batches(examples, options.batch, lambda _: plan, card.encoding)
    drawn = (batches[i][0] for i in range(options.settle))
    recompute_batch_norm_statistics(network, (_repeat(inputs, card.steps) for inputs in drawn))
    with TemporaryDirectory() as folder:
        checkpoint.save(Path(folder), network, card)
        yield Evaluator(Path(folder), options.device)


def _repeat(inputs: Mapping[str, Tensor], steps: int) -> dict[str, Tensor]:
    return {name: x.expand(steps, -1, -1, -1, -1) for name, x in inputs.items()}
