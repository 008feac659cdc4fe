"""Measure OOD detection: on noise, blank pages and foreign files, a checkpoint should abstain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.checkpoint import Measurement
from model.media.types import Clip
from model.out_of_distribution import ood_score
from model.training.evaluator import BATCH_SIZE, EvaluatedClip, Evaluator
from model.training.out_of_distribution.calibration_clips import OTHER
from model.training.out_of_distribution.made_clips import can_draw_sets, draw_sets

#: Probability above which a clip counts as answered.
CONFIDENT = 0.5


@dataclass(frozen=True)
class Answers:
    """Answers to clips: the predicted class [n], its probability [n], and the OOD score [n],
    which is NaN for all clips where the card has no reference for it."""

    classes: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    scores: NDArray[np.float64]

    @property
    def confident(self) -> float:
        """Share with a probability above CONFIDENT."""
        return float((self.probabilities > CONFIDENT).mean())

    @property
    def accepted(self) -> float:
        """Share with a probability above CONFIDENT and a score of at most 1."""
        return float(((self.probabilities > CONFIDENT) & (self.scores <= 1)).mean())


def measure_ood_detection(
    evaluator: Evaluator,
    clips: Sequence[EvaluatedClip],
    foreign: Path | None,
    seed: int,
    count: int = 0,
) -> Iterator[Measurement]:
    """Measure how many OOD clips are answered, and how well the OOD score separates them from
    `clips`; where a label is one of OTHER, which answers them rightly, how many have it.

    A network of a series over time has no such clips: nothing is measured.

    `foreign`: a folder of pictures and sounds of other things. `count`: OOD clips of each kind, at
    least as many as `clips`. Raises DataError where `foreign` has none.
    """
    if not can_draw_sets(evaluator.card):
        return
    known = _answers(evaluator, [clip.clip for clip in clips])
    conditions = f"T = {evaluator.card.steps}"
    has_scores = not np.isnan(known.scores).any()
    if has_scores:
        yield _share("test clips answered above 0.5, abstain_beyond=1", known.accepted, clips,
                     f"{conditions}, {evaluator.task.test_set}")  # fmt: skip
    for name, others in draw_sets(max(count, len(clips)), evaluator.card, foreign, seed):
        answers = _answers(evaluator, others)
        for index, label in enumerate(evaluator.card.labels):
            if label.lower() in OTHER:
                share = float((answers.classes == index).mean())
                yield _share(f"{name} answered {label!r}", share, others, conditions)
        yield _share(f"{name} answered above 0.5", answers.confident, others, conditions)
        if has_scores:
            what = f"{name} answered above 0.5, abstain_beyond=1"
            yield _share(what, answers.accepted, others, conditions)
            area = auroc(known.scores, answers.scores)
            yield _share(f"out-of-domain score, AUROC, {name}", area, others, conditions)


def _share(what: str, value: float, clips: Sequence[object], conditions: str) -> Measurement:
    return Measurement(what=what, value=value, n=len(clips), conditions=conditions)


def auroc(known: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the area under the ROC curve: the probability, 0 to 1, that the score of an OOD clip
    is above that of a known one."""
    ordered = np.sort(known)
    below = np.searchsorted(ordered, other, "left") + np.searchsorted(ordered, other, "right")
    return float(below.sum() / 2 / len(known) / len(other))


def _answers(evaluator: Evaluator, clips: Sequence[Clip]) -> Answers:
    classes: list[int] = []
    probabilities: list[float] = []
    scores: list[float] = []
    card = evaluator.card
    for first in range(0, len(clips), BATCH_SIZE):
        batch = [evaluator.prepare(clip, card.steps) for clip in clips[first : first + BATCH_SIZE]]
        output = evaluator.run(batch, card.steps)
        highest = evaluator.calibrate(output, card.steps).softmax(1).max(1)  # [B] each
        classes += highest.indices.tolist()
        probabilities += highest.values.tolist()
        score = ood_score(output, card, card.steps)
        scores += [np.nan] * len(batch) if score is None else score.tolist()
    return Answers(np.array(classes), np.array(probabilities), np.array(scores))
