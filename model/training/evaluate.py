"""Measuring a checkpoint on clips of a speaker and pictures that training never saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from model import checkpoint
from model.checkpoint.checkpoint import MOST_SEED, Card, Measurement
from model.encoding import encode
from model.engine import Engine
from model.media.reader import Clip, Pictures, Sound, read_clip
from model.network import Output
from model.preprocess.prepare import prepare
from model.preprocess.prepared import Prepared
from model.training import plots
from model.training.avdigits import dataset
from model.training.avdigits.clips import LabelledClip, labelled_clips
from model.training.faithfulness import Faithfulness, faithfulness
from model.training.recipe import check_range, check_task, make_folder

#: Levels of white noise that are measured, dB.
SNRS_DB = (-10, -5, 0, 5, 10, 15, 20)
#: Time steps that are measured.
STEPS = tuple(range(1, 9))
_BATCH = 32


@dataclass(frozen=True)
class EvaluateOptions:
    """What to measure: a checkpoint's folder, the data's, and how many clips.

    `clips` measure accuracy, the first `curve_clips` of them each curve, `attention_clips`
    (digit off-centre) the maps. Figures go into `out` and, with `write_card`, the numbers into
    the checkpoint's card.
    """

    checkpoint: Path
    data: Path
    out: Path
    clips: int = 1000
    curve_clips: int = 300
    attention_clips: int = 300
    seed: int = 7
    device: str = "auto"
    write_card: bool = False

    def __post_init__(self) -> None:
        """Raise OptionsError, naming the option, where a value is out of range."""
        for name, least in (("clips", 10), ("curve_clips", 1), ("attention_clips", 1)):
            check_range(name, getattr(self, name), least, 100_000)
        check_range("seed", self.seed, 0, MOST_SEED)


@dataclass(frozen=True)
class Share:
    """`right` of `count`, and the 95 % interval of the share (Wilson's)."""

    right: int
    count: int

    @property
    def value(self) -> float:
        return self.right / self.count

    @property
    def interval(self) -> tuple[float, float]:
        z, n, p = 1.959964, self.count, self.right / self.count
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return float(max(0.0, middle - half)), float(min(1.0, middle + half))


#: Something done to a decoded clip before preprocessing: noise, or a missing stream.
Change = Callable[[Clip, np.random.Generator], Clip]


class Judge:
    """A checkpoint that answers for decoded clips, in batches, as the service does."""

    def __init__(self, folder: Path, device: str = "auto") -> None:
        network, self.card = checkpoint.load(folder)
        check_task(self.card, folder)
        self.engine = Engine(network, device=device)
        self.engine.fuse(steps=self.card.steps)  # what the service runs on

    def prepare(self, clip: Clip, steps: int) -> dict[str, Prepared]:
        """Each stream that the clip has, as the card says."""
        return prepare(self.card.streams, clip.sound, clip.pictures, steps)

    def tensors(self, prepared: Sequence[dict[str, Prepared]], steps: int) -> dict[str, Tensor]:
        """A batch [T, B, C, H, W] of clips that have the same streams."""
        return {
            name: torch.stack(
                [self._encoded(clip[name], steps) for clip in prepared], dim=1
            )
            for name in prepared[0]
        }  # fmt: skip

    def run(
        self, prepared: Sequence[dict[str, Prepared]], steps: int, explain: Sequence[str] = ()
    ) -> Output:
        return self.engine.run(self.tensors(prepared, steps), steps=steps, explain=explain)

    def _encoded(self, prepared: Prepared, steps: int) -> Tensor:
        return encode(torch.from_numpy(prepared.tensor), steps, self.card.encoding)


def evaluate(options: EvaluateOptions, console: Console | None = None) -> Card:
    """Measure, print a table, draw the figures, and return the card with its measurements.

    The clips are H.264 + AAC files in memory, read back as a client's would be. Noise is added
    to what was decoded. Maps are measured where the network has spatial attention and there are
    clips whose digit is off-centre.

    Raises CheckpointError where the checkpoint is damaged or of another task, dataset.DataError,
    and OptionsError where `out`, or the checkpoint that is to be written, cannot be written.
    """
    console = console or Console()
    judge = Judge(options.checkpoint, options.device)
    held_out = dataset.halves(dataset.load(options.data)[1])[1]
    make_folder("out", options.out)
    if options.write_card:
        make_folder("write_card", options.checkpoint)
    clips = _read(labelled_clips(held_out, options.clips, options.seed), options, judge)
    steps = judge.card.steps
    measured = [*_accuracy(judge, clips, steps, options.out)]
    measured += _int8(judge, clips, steps)
    few = clips[: options.curve_clips]
    measured += _noise(judge, few, steps, options.out)
    measured += _steps(judge, few, options.out)
    measured += _maps(judge, _off_centre(clips, options.attention_clips), steps)
    console.print(_table(measured))
    card = judge.card.model_copy(update={"accuracy": tuple(measured)})
    if options.write_card:
        network, _ = checkpoint.load(options.checkpoint)
        card = checkpoint.save(options.checkpoint, network, card)
    return card


def held_out_batches(
    folder: Path, data: Path, count: int, seed: int = 7
) -> Iterator[dict[str, Tensor]]:
    """The inputs [T or 1, B, C, H, W] of the clips that `evaluate` measures a checkpoint on.

    Raises CheckpointError and dataset.DataError.
    """
    judge = Judge(folder, "cpu")
    held_out = dataset.halves(dataset.load(data)[1])[1]
    steps = judge.card.steps
    prepared = (
        judge.prepare(read_clip(clip.data, steps), steps)
        for clip in track(labelled_clips(held_out, count, seed), "clips", count, transient=True)
    )
    while batch := list(islice(prepared, _BATCH)):
        yield judge.tensors(batch, steps)


@dataclass(frozen=True)
class Judged:
    """A labelled clip, decoded at the checkpoint's T."""

    truth: LabelledClip
    clip: Clip


def _read(clips: Iterator[LabelledClip], options: EvaluateOptions, judge: Judge) -> list[Judged]:
    made = track(clips, "clips", total=options.clips, transient=True)
    return [Judged(clip, read_clip(clip.data, judge.card.steps)) for clip in made]


def _predictions(
    judge: Judge, clips: Sequence[Judged], steps: int, change: Change | None = None
) -> NDArray[np.int64]:
    """Predicted classes [n]; `change` sees each clip with a generator of its own."""
    answers = []
    for part in range(0, len(clips), _BATCH):
        batch = []
        for index, judged in enumerate(clips[part : part + _BATCH], part):
            clip = judged.clip
            if change is not None:
                clip = change(clip, np.random.default_rng([11, index]))
            batch.append(judge.prepare(clip, steps))
        answers.append(judge.run(batch, steps).logits.argmax(1).numpy())
    return np.concatenate(answers)


def _share(predictions: NDArray[np.int64], clips: Sequence[Judged]) -> Share:
    labels = np.asarray([judged.truth.label for judged in clips], np.int64)
    return Share(int((predictions == labels).sum()), len(labels))


def _accuracy(
    judge: Judge, clips: Sequence[Judged], steps: int, out: Path
) -> Iterator[Measurement]:
    conditions = f"T = {steps}, H.264 + AAC clips, {_HELD_OUT}"
    fused = _predictions(judge, clips, steps)
    labels = np.asarray([judged.truth.label for judged in clips], np.int64)
    plots.confusion(labels, fused, judge.card.labels, out / "confusion.png")
    yield _measurement("accuracy, both streams", _share(fused, clips), conditions)
    for what, change in _STREAMS[1:]:
        share = _share(_predictions(judge, clips, steps, change), clips)
        yield _measurement(f"accuracy, {what}", share, conditions)


def _int8(judge: Judge, clips: Sequence[Judged], steps: int) -> Iterator[Measurement]:
    """Accuracy with int8 weights, where this machine can compute with them."""
    if not judge.engine.fuse("int8"):
        return
    conditions = f"T = {steps}, H.264 + AAC clips, {_HELD_OUT}, int8"
    for what, change in _STREAMS:
        share = _share(_predictions(judge, clips, steps, change), clips)
        measured = _measurement(f"accuracy, {what}, int8", share, conditions)
        yield measured.model_copy(update={"precision": "int8"})
    judge.engine.fuse()


def _noise(judge: Judge, clips: Sequence[Judged], steps: int, out: Path) -> list[Measurement]:
    """Accuracy over the level of white noise on one stream, for it alone and for both."""
    curves: dict[str, list[Share]] = {}
    for snr in track(SNRS_DB, "noise", transient=True):
        for name, noisy, alone in (
            ("sound", noisy_sound(snr), without_pictures),
            ("picture", noisy_pictures(snr), without_sound),
        ):
            fused = _share(_predictions(judge, clips, steps, noisy), clips)
            single = _share(_predictions(judge, clips, steps, _both(noisy, alone)), clips)
            curves.setdefault(f"both streams, noise on the {name}", []).append(fused)
            curves.setdefault(f"{name} alone, noise on it", []).append(single)
    plots.curves("signal-to-noise ratio in dB", SNRS_DB, curves, out / "noise.png")
    at = SNRS_DB.index(0)
    conditions = f"white noise at 0 dB, T = {steps}, {_HELD_OUT}"
    return [_measurement(f"accuracy, {name}", c[at], conditions) for name, c in curves.items()]


def _steps(judge: Judge, clips: Sequence[Judged], out: Path) -> list[Measurement]:
    """Accuracy over T; the clips are read again, since T is also the number of frames."""
    curves: dict[str, list[Share]] = {"both streams": [], "picture alone": [], "sound alone": []}
    for steps in track(STEPS, "time steps", transient=True):
        read = [replace(j, clip=read_clip(j.truth.data, steps)) for j in clips]
        for name, change in zip(curves, (None, without_sound, without_pictures), strict=True):
            curves[name].append(_share(_predictions(judge, read, steps, change), read))
    plots.curves("time steps T", STEPS, curves, out / "steps.png")
    return [
        _measurement(f"accuracy, both streams, T = {steps}", share, _HELD_OUT)
        for steps, share in zip(STEPS, curves["both streams"], strict=True)
    ]


def _off_centre(clips: Sequence[Judged], count: int) -> list[Judged]:
    """Clips whose digit's centre is a fifth of the frame or more from the frame's."""
    return [judged for judged in clips if _offset(judged.truth) >= 0.2][:count]


def _offset(truth: LabelledClip) -> float:
    height, width = truth.size
    left, top, right, bottom = truth.box
    across = (left + right) / (2 * width) - 0.5
    down = (top + bottom) / (2 * height) - 0.5
    return float(np.hypot(across, down))


def _maps(judge: Judge, clips: Sequence[Judged], steps: int) -> list[Measurement]:
    """What the visual maps of these clips are worth; nothing where there are no such maps."""
    if not clips or "spatial" not in (judge.card.config.attention or ""):
        return []
    return _attention(faithfulness(judge, clips, steps))


def _attention(found: Faithfulness) -> list[Measurement]:
    conditions = f"visual map, digit off-centre, {_HELD_OUT}"
    rows = (
        ("map's mass in the digit's box", found.mass),
        ("box's share of the frame", found.area),
        ("mass over share", found.mass / found.area),
        ("drop of the true class's probability, top 20 % of the map hidden", found.drop_top),
        ("drop of the true class's probability, random 20 % hidden", found.drop_random),
    )
    return [
        Measurement(
            what=f"attention: {what}", value=value, low=None, high=None,
            n=found.count, conditions=conditions,
        )
        for what, value in rows
    ]  # fmt: skip


# --- what is done to clips -------------------------------------------------------------------


def without_sound(clip: Clip, _: np.random.Generator) -> Clip:
    return replace(clip, sound=None)


def without_pictures(clip: Clip, _: np.random.Generator) -> Clip:
    return replace(clip, pictures=None)


_STREAMS: tuple[tuple[str, Change | None], ...] = (
    ("both streams", None),
    ("picture alone", without_sound),
    ("sound alone", without_pictures),
)


def noisy_sound(snr_db: float) -> Change:
    """White noise, its power that of the loudest half second less `snr_db`."""

    def change(clip: Clip, rng: np.random.Generator) -> Clip:
        assert clip.sound is not None
        samples = clip.sound.samples
        window = max(1, min(samples.shape[1], clip.sound.sample_rate // 2))
        energy = np.cumsum(np.pad(samples.mean(0).astype(np.float64) ** 2, (1, 0)))
        power = (energy[window:] - energy[:-window]).max() / window
        level = np.sqrt(power * 10 ** (-snr_db / 10))
        noise = rng.standard_normal(samples.shape) * level
        noisy = Sound((samples + noise).astype(np.float32), clip.sound.sample_rate)
        return replace(clip, sound=noisy)

    return change


def noisy_pictures(snr_db: float) -> Change:
    """White noise on every pixel, its power that of the picture's variance less `snr_db`."""

    def change(clip: Clip, rng: np.random.Generator) -> Clip:
        assert clip.pictures is not None
        noisy = []
        for frame in clip.pictures.frames:
            level = frame.std() * 10 ** (-snr_db / 20)
            noise = rng.standard_normal(frame.shape, np.float32) * level
            noisy.append(np.clip(frame + noise, 0, 255).astype(np.uint8))
        return replace(clip, pictures=Pictures(tuple(noisy), clip.pictures.times_s))

    return change


def _both(first: Change, second: Change) -> Change:
    return lambda clip, rng: second(first(clip, rng), rng)


# --- what is printed -------------------------------------------------------------------------

_HELD_OUT = f"speaker {dataset.HELD_OUT_SPEAKER} and pictures that training never saw"


def _measurement(what: str, share: Share, conditions: str) -> Measurement:
    low, high = share.interval
    return Measurement(
        what=what, value=share.value, low=low, high=high, n=share.count, conditions=conditions
    )


def _table(measured: Sequence[Measurement]) -> Table:
    table = Table("what", "value", "95 % interval", "n", "conditions")
    for m in measured:
        attention = m.what.startswith("attention")
        value = f"{m.value:.3f}" if attention else f"{m.value:.1%}"
        interval = "" if m.low is None or m.high is None else f"{m.low:.1%} to {m.high:.1%}"
        table.add_row(m.what, value, interval, str(m.n), m.conditions)
    return table
