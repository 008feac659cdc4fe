"""Cross-modal residuals that are silent: 0 in every token, so that the network is one without."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from model.network import Output
from model.training import calibrate
from model.training.evaluator import Evaluator
from model.training.study.examiner import Examiner, Measured, Run, Values
from model.training.study.variants import Variant
from model.training.task import Task

#: The first part of the keys; the second is the stream that receives the residual.
RESIDUAL = "residual"
#: Development clips that tell whether residuals fire, in studies that use no others.
_CLIPS = 40


def residuals_of(together: Output) -> Iterator[tuple[str, Values]]:
    """Yield the mean of r [n] in each stream's tokens, of an output with all streams."""
    for stream, residual in together.residuals.items():  # [T, B, C]
        yield f"{RESIDUAL}/{stream}", residual.double().mean((0, 2)).numpy()


def measure_residuals(examiner: Examiner, run: Run) -> Iterator[tuple[str, Values]]:
    """Measure the mean of r on some development clips. Raises DataError."""
    if run.only:
        return
    evaluator = Evaluator(run.best, examiner.options.device)
    count = min(_CLIPS, examiner.options.development_clips)
    examples = examiner.data.development_examples()
    outputs, _ = calibrate.run(evaluator, examples, count, evaluator.card.steps)
    yield from residuals_of(outputs[None])


def warning(task: Task, results: Mapping[Variant, Sequence[Measured]]) -> str:
    """Return which variants have silent residuals, in which streams and in how many of their runs;
    empty where none has."""
    silent = [
        f"{variant.title} ({_where(task, runs)})"
        for variant, runs in results.items()
        if any(_silent(run) for run in runs)
    ]
    if not silent:
        return ""
    return (
        f"Silent residuals: r is 0 in every token with {'; '.join(silent)}. There α changes "
        "nothing: these are networks without that residual. Start from a checkpoint whose "
        "residuals fire (--init-from), or train for longer."
    )


def _where(task: Task, runs: Sequence[Measured]) -> str:
    silent = [stream for run in runs for stream in _silent(run)]
    return ", ".join(
        f"{task.titles[stream]} in {silent.count(stream)} of {len(runs)} runs"
        if len(runs) > 1
        else task.titles[stream]
        for stream in dict.fromkeys(silent)
    )


def _silent(run: Measured) -> list[str]:
    """Return the streams whose residual is 0 in every token of every clip."""
    parts = ((*key.partition("/"), values) for key, values in run.items())
    return [stream for part, _, stream, x in parts if part == RESIDUAL and not np.any(x)]
