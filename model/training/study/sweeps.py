"""Accuracies over an axis: the level of white noise, the number of time steps, or the margin at
which clips stop early.

The keys are `STUDY/POINT/CURVE`, POINT a number, CLEAN or NO_EXIT; the values [n] are whether each
test clip is answered right, or, of the curves IN_STEPS, time steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from model.media.types import Clip
from model.training.early_exit import exits
from model.training.evaluate import all_streams
from model.training.evaluator import EvaluatedClip, Evaluator, decode_within_memory
from model.training.perturbations import NOISE, Perturbation
from model.training.study.examiner import TOGETHER, Examiner, Run, Values, labels_of
from model.training.task import DataError, Task

#: The points without noise, and without an exit.
CLEAN, NO_EXIT = "clean", "not sent"
#: The curves over the exit margin that are time steps, not accuracies.
ANSWERED_AFTER, STEPS_RUN = IN_STEPS = "mean T of the answers", "mean of all steps run"


def measure_noise(examiner: Examiner, run: Run) -> Iterator[tuple[str, Values]]:
    """Measure accuracy with noise on each stream, and on all at once, for all streams together and
    for the streams that have noise alone.

    Raises DataError where the task has no stream of a kind that noise is known for.
    """
    task, evaluator = examiner.task, Evaluator(run.best, examiner.options.device)
    noisy = noisy_streams(task)
    clips = examiner.decoded(evaluator)
    names = examiner.names(run)
    for on in _subsets(noisy):
        # Noise on one stream: with all of them, and with it alone.
        measured = [name for name in names if name == TOGETHER or on == (name,)]
        points: dict[str, Perturbation | None] = {CLEAN: None}
        points |= {str(snr_db): _noise(task, on, snr_db) for snr_db in examiner.options.snrs_db}
        for point, noise in points.items() if measured else ():
            right = _right(examiner, evaluator, clips, measured, noise)
            yield from ((f"noise/{point}/{_curve(task, n, on)}", x) for n, x in right.items())


def noisy_streams(task: Task) -> list[str]:
    """Return the streams of kinds that noise is known for. Raises DataError where there is none."""
    noisy = [name for name, spec in task.specs.items() if spec.kind in NOISE]
    if not noisy:
        kinds = ", ".join(sorted({spec.kind for spec in task.specs.values()}))
        raise DataError(
            f"{task.name}: noise is known for {', '.join(NOISE)} only; its streams are {kinds}"
        )
    return noisy


def _subsets(noisy: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the streams that get noise at once: each, and all where there are several."""
    each: list[tuple[str, ...]] = [(stream,) for stream in noisy]
    return [*each, tuple(noisy)] if len(noisy) > 1 else each


def _curve(task: Task, name: str, on: Sequence[str]) -> str:
    if name != TOGETHER:
        return f"{task.titles[name]} alone, noise on it"
    titles = " and ".join(task.titles[stream] for stream in on)
    return f"{all_streams(task)}, noise on {titles}"


def _noise(task: Task, on: Sequence[str], snr_db: float) -> Perturbation:
    """Return noise on these streams. Streams of one kind share the clip's sound or pictures."""
    kinds = dict.fromkeys(task.specs[stream].kind for stream in on)
    noises = [NOISE[kind](snr_db) for kind in kinds]

    def perturb(clip: Clip, rng: np.random.Generator) -> Clip:
        for noise in noises:
            clip = noise(clip, rng)
        return clip

    return perturb


def measure_steps(examiner: Examiner, run: Run) -> Iterator[tuple[str, Values]]:
    """Measure accuracy over T. Clips are decoded again, since T is also the number of frames."""
    task, evaluator = examiner.task, Evaluator(run.best, examiner.options.device)
    for steps in examiner.options.steps_measured:
        clips = decode_within_memory(examiner.labelled(), steps, evaluator)
        right = _right(examiner, evaluator, clips, examiner.names(run), steps=steps)
        for name, values in right.items():
            curve = all_streams(task) if name == TOGETHER else f"{task.titles[name]} alone"
            yield f"steps/{steps}/{curve}", values


def measure_exit(examiner: Examiner, run: Run) -> Iterator[tuple[str, Values]]:
    """Measure accuracy and time steps over the exit margin, for all streams together, with the
    temperatures of the card."""
    evaluator = Evaluator(run.best, examiner.options.device)
    steps = examiner.options.most_steps or evaluator.card.steps
    clips = decode_within_memory(examiner.labelled(), steps, evaluator)
    for each in exits(evaluator, clips, steps, examiner.options.exit_margins):
        point = NO_EXIT if each.margin is None else f"{each.margin:g}"
        yield f"exit/{point}/accuracy", each.right
        yield f"exit/{point}/{ANSWERED_AFTER}", each.answered_after
        yield f"exit/{point}/{STEPS_RUN}", each.steps_run


def _right(
    examiner: Examiner,
    evaluator: Evaluator,
    clips: Sequence[EvaluatedClip],
    names: Sequence[str],
    noise: Perturbation | None = None,
    steps: int | None = None,
) -> dict[str, Values]:
    """Return 1 for each clip that is answered right, and 0 for the others, [n], by streams."""
    labels = labels_of(clips)
    logits = examiner.logits(evaluator, clips, names, noise, steps)
    return {n: np.asarray(x.argmax(1) == labels, np.float64) for n, x in logits.items()}
