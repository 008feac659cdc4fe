"""What a study measures of each trained variant: values by clip, in a file of its run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from torch import Tensor

from model import checkpoint
from model.checkpoint import Card
from model.network import Output
from model.training import calibrate
from model.training.batches import Batches
from model.training.evaluate import off_centre
from model.training.evaluator import EvaluatedClip, Evaluator, decode_clips
from model.training.faithfulness import faithfulness_by_clip
from model.training.norms import settle_norms
from model.training.perturbations import DEGRADATIONS, Perturbation
from model.training.study.following import follow
from model.training.study.options import StudyOptions
from model.training.task import BatchPlan, Data, Task, streams_alone
from model.training.temperature import fit_temperature
from model.training.two_objects import TwoObjectData, TwoObjects

#: File of a run with what was measured of it.
MEASURED = "measured.npz"
#: Key of all streams together, beside the names of streams.
TOGETHER = "all"
#: What follows the name of a measure with the temperature of the development clips.
CALIBRATED = ", calibrated"
#: Off-centre clips for the deletion test.
_HIDDEN_CLIPS = 100
#: Key of the settings with which a file was measured.
_SETTINGS = "settings"

Values = NDArray[np.float64]
Measured = dict[str, Values]


class Examiner:
    """Measures runs of one study on the same clips, which it decodes once."""

    def __init__(self, options: StudyOptions, task: Task, data: Data) -> None:
        self.options = options
        self.task = task
        self.data = data
        self._clips: list[EvaluatedClip] = []
        self._pairs: list[TwoObjects] = []

    def measure(self, best: Path, out: Path, seed: int) -> Measured:
        """Measure the checkpoint `best` of a run in the folder `out`, or read what was measured of
        it before. `seed` decides the clips by which norms are settled.

        The keys are `PART/CONDITION/STREAMS/MEASURE`, the values [n] or [n, 2] are by clip (see
        `estimate`). Raises DataError, CheckpointError and OSError.
        """
        file = out / MEASURED
        settings = self._settings(checkpoint.read_card(best))
        if (measured := _read(file, settings)) is not None:
            return measured
        measured = dict(self._measure(best, seed))
        part = file.with_suffix(".part")
        with part.open("wb") as opened:
            np.savez(opened, **measured, **{_SETTINGS: np.asarray(settings)})  # type: ignore[arg-type]
        part.replace(file)
        return measured

    def _settings(self, card: Card) -> str:
        names = ("development_clips", "test_clips", "pairs", "settle", "seed")
        chosen = {name: getattr(self.options, name) for name in names}
        network = [card.sha256, card.config.alpha]
        return json.dumps({**chosen, "data": self.data.sha256, "network": network}, sort_keys=True)

    def _measure(self, best: Path, seed: int) -> Iterator[tuple[str, Values]]:
        evaluator = Evaluator(best, self.options.device)
        temperatures = {}
        outputs, labels = self._development(evaluator)
        for name, output in outputs.items():
            logits = output.logits.numpy()
            temperatures[name] = fit_temperature(logits, labels)
            yield from _answers(f"development/clean/{name}", logits, labels)
        for stream, residual in outputs[TOGETHER].residuals.items():  # [T, B, C]
            yield f"residual/{stream}", residual.double().mean((0, 2)).numpy()
        clips = self._decoded(evaluator)
        labels = np.asarray([clip.truth.label for clip in clips], np.int64)
        names = (TOGETHER, *streams_alone(self.task))
        for name, logits in self._logits(evaluator, clips, names).items():
            yield from _answers(f"test/clean/{name}", logits, labels)
            calibrated = logits / np.float32(temperatures[name])
            yield from _answers(f"test/clean/{name}", calibrated, labels, CALIBRATED)
        for stream, condition, perturbation in self._degradations():
            names = (TOGETHER, *({stream} & set(streams_alone(self.task))))
            for name, logits in self._logits(evaluator, clips, names, perturbation).items():
                key = f"test/{self.task.titles[stream]} {condition}/{name}"
                yield from _answers(key, logits / np.float32(temperatures[name]), labels)
        yield from self._maps(evaluator, clips)
        yield from self._norms(best, seed, clips, labels)

    def _development(self, evaluator: Evaluator) -> tuple[dict[str, Output], NDArray[np.int64]]:
        """Return the output for development clips with all streams (TOGETHER) and each alone, and
        their classes [n]."""
        examples = self.data.development_examples()
        count, steps = self.options.development_clips, evaluator.card.steps
        outputs, labels = calibrate.run(evaluator, examples, count, steps)
        return {name or TOGETHER: output for name, output in outputs.items()}, labels

    def _decoded(self, evaluator: Evaluator) -> list[EvaluatedClip]:
        if not self._clips:
            count = self.options.test_clips
            labelled = self.data.test_clips(count, self.options.seed)
            self._clips = decode_clips(labelled, count, evaluator)
        return self._clips

    def _logits(
        self,
        evaluator: Evaluator,
        clips: Sequence[EvaluatedClip],
        names: Sequence[str],
        perturbation: Perturbation | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """Return logits [n, classes] with all streams (TOGETHER), or each of the names alone."""
        alone = [None if name == TOGETHER else name for name in names]
        logits = evaluator.logits_by_streams(clips, evaluator.card.steps, alone, perturbation)
        return {stream or TOGETHER: each for stream, each in logits.items()}

    def _degradations(self) -> Iterator[tuple[str, str, Perturbation]]:
        for stream, spec in self.task.specs.items():
            for condition, perturbation in DEGRADATIONS.get(spec.kind, {}).items():
                yield stream, condition, perturbation

    def _maps(
        self, evaluator: Evaluator, clips: Sequence[EvaluatedClip]
    ) -> Iterator[tuple[str, Values]]:
        stream, steps = self.task.box_stream, evaluator.card.steps
        if stream is None:
            return
        if isinstance(self.data, TwoObjectData):
            if not self._pairs:
                self._pairs = list(self.data.two_objects(self.options.pairs, self.options.seed))
            following = follow(evaluator, self._pairs, steps, stream)
            yield from ((f"pairs/{name}", x) for name, x in asdict(following).items())
        aside = off_centre(clips, _HIDDEN_CLIPS)
        if aside and evaluator.card.config.has_spatial_maps:
            hidden = faithfulness_by_clip(evaluator, aside, steps, stream)
            yield from ((f"hidden/{name}", x) for name, x in asdict(hidden).items())

    def _norms(
        self, best: Path, seed: int, clips: Sequence[EvaluatedClip], labels: NDArray[np.int64]
    ) -> Iterator[tuple[str, Values]]:
        """Measure clean clips with norms settled with all streams, and with norms by mode: those
        of batches with the streams that are used."""
        names = (TOGETHER, *streams_alone(self.task))
        for mode in names:
            with self._settled(best, seed, mode) as evaluator:
                measured = names if mode == TOGETHER else (mode,)
                for name, logits in self._logits(evaluator, clips, measured).items():
                    if mode == TOGETHER:
                        yield from _answers(f"norms settled/clean/{name}", logits, labels)
                    if mode == name:
                        yield from _answers(f"norms by mode/clean/{name}", logits, labels)

    @contextmanager
    def _settled(self, best: Path, seed: int, mode: str) -> Iterator[Evaluator]:
        """Yield a checkpoint with norms settled with all streams, or with one."""
        network, card = checkpoint.load(best)
        streams = tuple(self.task.specs) if mode == TOGETHER else (mode,)
        plan = BatchPlan(streams, card.steps)  # as difficult as in training
        examples = self.data.training_examples(seed, cache=self.options.out)
        batches = Batches(examples, self.options.batch, lambda _: plan, card.encoding)
        drawn = (batches[i][0] for i in range(self.options.settle))
        settle_norms(network, (_repeat(inputs, card.steps) for inputs in drawn))
        with TemporaryDirectory() as folder:
            checkpoint.save(Path(folder), network, card)
            yield Evaluator(Path(folder), self.options.device)


def _repeat(inputs: Mapping[str, Tensor], steps: int) -> dict[str, Tensor]:
    return {name: x.expand(steps, -1, -1, -1, -1) for name, x in inputs.items()}


def _answers(
    key: str, logits: NDArray[np.float32], labels: NDArray[np.int64], suffix: str = ""
) -> Iterator[tuple[str, Values]]:
    """Yield accuracy [n], cross-entropy [n], and confidence with accuracy [n, 2]."""
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
