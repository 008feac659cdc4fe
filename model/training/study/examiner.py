"""Measure the runs of a study on the same clips: values by clip, in a file of each run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from model import checkpoint
from model.checkpoint import Card
from model.training.evaluator import EvaluatedClip, Evaluator, decode_clips
from model.training.perturbations import Perturbation
from model.training.study.options import StudyOptions
from model.training.task import Data, LabelledClip, Task, streams_alone
from model.training.two_objects import TwoObjectData, TwoObjects
from model.whole_file import replacing

#: File of a run with what was measured of it.
MEASURED = "measured.npz"
#: Key of all streams together, beside the names of streams.
TOGETHER = "all"
#: Suffix of a measure with the temperature of the development clips.
CALIBRATED = ", calibrated"
#: Key of the settings with which a file was measured.
_SETTINGS = "settings"
#: Options that decide what a study measures, beside the clips.
_OPTIONS = {
    "alpha": ("pairs", "settle"),
    "ablation": ("study",),
    "noise": ("study", "snrs"),
    "steps": ("study", "time_steps"),
    "modalities": ("study",),
    "exit": ("study", "margins", "most_steps"),
}

Values = NDArray[np.float64]
Measured = dict[str, Values]


@dataclass(frozen=True)
class Run:
    """A run to measure: the checkpoint `best`, the run's `seed`, and the stream that it has `only`,
    if it is a network of one."""

    best: Path
    seed: int
    only: str | None = None


class Examiner:
    """Measures runs of one study on the same clips, which it decodes once.

    `measures` yields what is measured of a run: names, and values by clip (see `estimate`).
    """

    def __init__(
        self,
        options: StudyOptions,
        task: Task,
        data: Data,
        measures: Callable[[Examiner, Run], Iterator[tuple[str, Values]]],
    ) -> None:
        self.options = options
        self.task = task
        self.data = data
        self._measures = measures
        self._clips: list[EvaluatedClip] = []
        self._pairs: list[TwoObjects] = []

    def measure(self, run: Run, out: Path) -> Measured:
        """Measure a run in the folder `out`, or read what was measured of it before.

        Raises DataError, CheckpointError and OSError.
        """
        file = out / MEASURED
        settings = self._settings(checkpoint.read_card(run.best))
        if (measured := _read(file, settings)) is not None:
            return measured
        measured = dict(self._measures(self, run))
        with replacing(file) as opened:
            np.savez(opened, **measured, **{_SETTINGS: np.asarray(settings)})  # type: ignore[arg-type]
        return measured

    def _settings(self, card: Card) -> str:
        names = ("development_clips", "test_clips", "seed", *_OPTIONS[self.options.study])
        chosen = {name: getattr(self.options, name) for name in names}
        network = [card.sha256, card.config.alpha]
        return json.dumps({**chosen, "data": self.data.sha256, "network": network}, sort_keys=True)

    def names(self, run: Run) -> tuple[str, ...]:
        """Return TOGETHER and the streams that a run is measured with alone."""
        return (run.only,) if run.only else (TOGETHER, *streams_alone(self.task))

    def labelled(self) -> Iterator[LabelledClip]:
        """Yield the test clips."""
        return self.data.test_clips(self.options.test_clips, self.options.seed)

    def decoded(self, evaluator: Evaluator) -> list[EvaluatedClip]:
        """Return the test clips, decoded at the checkpoint's T."""
        if not self._clips:
            self._clips = decode_clips(self.labelled(), self.options.test_clips, evaluator)
        return self._clips

    def pairs(self) -> list[TwoObjects]:
        """Return the pictures of two objects; none where the task offers none."""
        if not self._pairs and isinstance(self.data, TwoObjectData):
            self._pairs = list(self.data.two_objects(self.options.pairs, self.options.seed))
        return self._pairs

    def logits(
        self,
        evaluator: Evaluator,
        clips: Sequence[EvaluatedClip],
        names: Sequence[str],
        perturbation: Perturbation | None = None,
        steps: int | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """Return logits [n, classes] with all streams (TOGETHER), or each of the names alone, at
        the card's T or another."""
        alone = [None if name == TOGETHER else name for name in names]
        logits = evaluator.logits_by_streams(
            clips, steps or evaluator.card.steps, alone, perturbation
        )
        return {stream or TOGETHER: values for stream, values in logits.items()}


def labels_of(clips: Sequence[EvaluatedClip]) -> NDArray[np.int64]:
    """Return the classes [n] of clips."""
    return np.asarray([clip.truth.label for clip in clips], np.int64)


def answers(
    key: str, logits: NDArray[np.float32], labels: NDArray[np.int64], suffix: str = ""
) -> Iterator[tuple[str, Values]]:
    """Yield names, which begin with `key`, and accuracy [n], cross-entropy [n], and confidence with
    accuracy [n, 2]."""
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    correct = (log_probabilities.argmax(1) == labels).astype(np.float64)
    confidence = np.exp(log_probabilities.max(1))
    if not suffix:
        yield f"{key}/accuracy", correct
    yield f"{key}/cross-entropy{suffix}", -log_probabilities[np.arange(len(labels)), labels]
    yield f"{key}/calibration error{suffix}", np.stack([confidence, correct], axis=1)


def _read(file: Path, settings: str) -> Measured | None:
    """Return what a file holds; None where it is missing or was measured with other settings."""
    try:
        with np.load(file) as arrays:
            stored = {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        return None
    measured_with = str(stored.pop(_SETTINGS))
    return stored if measured_with == settings else None
