"""Measure OOD detection: on noise, blank pages and foreign files, a checkpoint should abstain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from model.checkpoint import Measurement
from model.media.reader import read_picture, read_sound
from model.media.types import Clip, MediaError, Pictures, Sound
from model.out_of_distribution import ood_score
from model.training.evaluator import BATCH_SIZE, EvaluatedClip, Evaluator
from model.training.folder.clip_files import kind_of
from model.training.out_of_distribution.calibration_clips import OTHER
from model.training.speech import voices
from model.training.speech.folder import RATE
from model.training.speech.recording import record
from model.training.task import DataError

#: Probability above which a clip counts as answered.
CONFIDENT = 0.5
#: Sample rate in Hz and length in seconds of made sounds, and of the parts cut of foreign ones.
_RATE, _SECONDS = 16_000, 2.0


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
    evaluator: Evaluator, clips: Sequence[EvaluatedClip], foreign: Path | None, seed: int
) -> Iterator[Measurement]:
    """Measure how many OOD clips are answered, and how well the OOD score separates them from
    `clips`; where a label is one of OTHER, which answers them rightly, how many have it.

    `foreign`: a folder of pictures and sounds of other things. Raises DataError where it has none.
    """
    known = _answers(evaluator, [clip.clip for clip in clips])
    conditions = f"T = {evaluator.card.steps}"
    has_scores = not np.isnan(known.scores).any()
    if has_scores:
        yield _share("test clips answered above 0.5, abstain_beyond=1", known.accepted, clips,
                     f"{conditions}, {evaluator.task.test_set}")  # fmt: skip
    for name, others in _sets(len(clips), evaluator.card.steps, foreign, seed):
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


def _sets(
    count: int, steps: int, foreign: Path | None, seed: int
) -> Iterator[tuple[str, list[Clip]]]:
    rng = np.random.default_rng([seed, 3])
    yield "white noise", [Clip(_white(rng), _noise(rng, steps)) for _ in range(count)]
    yield "blank pages", [Clip(_white(rng), _page(rng, steps)) for _ in range(count)]
    unseen = voices.unseen_words(count)
    if unseen:
        words = [Clip(_spoken(word, rng), _page(rng, steps)) for word in unseen]
        yield "words that are no digits, and blank pages", words
    if foreign is not None:
        yield f"foreign clips ({foreign.name})", _foreign(foreign, count, rng)


def _white(rng: Generator) -> Sound:
    """Return white noise of -60 to -14 dBFS."""
    level = 10 ** rng.uniform(-3, -0.7)
    samples = rng.standard_normal((1, round(_RATE * _SECONDS)), np.float32)
    return Sound(samples * np.float32(level), _RATE)


def _spoken(word: NDArray[np.float32], rng: Generator) -> Sound:
    """Return a recording of a word, with noise."""
    return Sound(record(word, RATE, rng, snr_db=rng.uniform(10, 40)).samples[None], RATE)


def _noise(rng: Generator, steps: int) -> Pictures:
    """Return pictures of uniform noise."""
    shape = (int(rng.integers(180, 360)), int(rng.integers(240, 480)), 3)
    frames = [rng.integers(0, 256, shape, np.uint8) for _ in range(steps)]
    return Pictures(tuple(frames), tuple(map(float, range(steps))))


def _page(rng: Generator, steps: int) -> Pictures:
    """Return pictures of an empty page with a shadow to one side and a camera's noise."""
    height, width = int(rng.integers(180, 360)), int(rng.integers(240, 480))
    shadow = np.linspace(-15, 15, width)[None, :, None] * rng.uniform(-1, 1)
    page = rng.uniform(120, 240, 3) + shadow + np.zeros((height, 1, 1))
    noise = rng.uniform(1, 6)
    frames = [page + rng.normal(0, noise, page.shape) for _ in range(steps)]
    clipped = tuple(np.clip(frame, 0, 255).astype(np.uint8) for frame in frames)
    return Pictures(clipped, tuple(map(float, range(steps))))


def _foreign(folder: Path, count: int, rng: Generator) -> list[Clip]:
    """Return random pairs of a picture and 2 s of a sound of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sounds = [path for path in files if kind_of(path) == "sound"]
    pictures = [path for path in files if kind_of(path) == "picture"]
    if not sounds or not pictures:
        raise DataError(
            f"{folder}: {len(sounds)} sounds and {len(pictures)} pictures; one of each is needed"
        )
    rng.shuffle(sounds)
    rng.shuffle(pictures)
    pairs = islice(zip(cycle(sounds), cycle(pictures), strict=False), count)
    return [Clip(_part(sound, rng), _still(picture)) for sound, picture in pairs]


def _part(file: Path, rng: Generator) -> Sound:
    try:
        sound = read_sound(file.read_bytes())
    except (MediaError, OSError) as exc:
        raise DataError(f"{file}: {exc}") from exc
    length = round(_SECONDS * sound.sample_rate)
    start = int(rng.integers(0, max(1, sound.samples.shape[1] - length)))
    return Sound(sound.samples[:, start : start + length], sound.sample_rate)


def _still(file: Path) -> Pictures:
    try:
        return Pictures((read_picture(file.read_bytes()),), (0.0,))
    except (MediaError, OSError) as exc:
        raise DataError(f"{file}: {exc}") from exc
