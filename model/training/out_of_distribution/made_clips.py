"""Clips of no class to evaluate on, for the streams that a checkpoint has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from model.checkpoint import Card
from model.media.events.types import CameraEvents, ChannelEvents
from model.media.reader import read_picture, read_sound
from model.media.types import Clip, MediaError, Pictures, Sound
from model.preprocess.cochlea import sound_to_events
from model.preprocess.specs import ChannelEventSpec, EventFrameSpec, Spec
from model.training.folder.clip_files import kind_of
from model.training.out_of_distribution.calibration_clips import OTHER
from model.training.speech import voices
from model.training.speech.folder import RATE
from model.training.speech.recording import record
from model.training.task import DataError

#: Sample rate in Hz and length in seconds of made sounds, and of the parts cut of foreign ones.
_RATE, _SECONDS = 16_000, 2.0
#: Sensor (height, width) of made events where the preprocessing names none: that of N-MNIST.
_SENSOR = (34, 34)
#: Microseconds of made events, and the fewest and most of a camera and of a cochlea.
_TIME_US = 300_000
_CAMERA_EVENTS, _COCHLEA_EVENTS = (500, 10_000), (100, 3000)
#: Kinds of streams that clips of no class are drawn for: of media, and of events.
_MEDIA, _EVENTS = frozenset({"frames", "spectrogram"}), frozenset({"events", "audio_events"})


def can_draw_sets(card: Card) -> bool:
    """Return whether clips of no class can be drawn for the card's streams."""
    kinds = _kinds(card)
    return kinds <= _MEDIA or kinds <= _EVENTS


def draw_sets(
    count: int, card: Card, foreign: Path | None, seed: int
) -> Iterator[tuple[str, list[Clip]]]:
    """Yield names and `count` clips of no class each: noise, blank pages, words that are no labels
    (where espeak-ng is installed) and those of `foreign`, as far as the card's streams have them.

    Raises DataError where `foreign` has nothing for a stream.
    """
    rng = np.random.default_rng([seed, 3])
    kinds = _kinds(card)
    if kinds <= _EVENTS:
        yield from _event_sets(count, card, rng)
        return
    steps = card.steps
    yield "white noise", [Clip(_white(rng), _noise(rng, steps)) for _ in range(count)]
    if "frames" in kinds:
        yield "blank pages", [Clip(_white(rng), _page(rng, steps)) for _ in range(count)]
    unseen = voices.unseen_words(count, card.labels) if "spectrogram" in kinds else ()
    if unseen:
        words = [Clip(_spoken(word, rng), _page(rng, steps)) for word in unseen]
        yield f"{_other_words(card)}{', and blank pages' * ('frames' in kinds)}", words
    if foreign is not None:
        yield f"foreign clips ({foreign.name})", _foreign(foreign, kinds, count, rng)


def _other_words(card: Card) -> str:
    """Return what spoken words are to a checkpoint, whose labels are not among them."""
    are_digits = all(label.isdecimal() for label in card.labels if label.lower() not in OTHER)
    return "words that are no digits" if are_digits else "other words"


def _kinds(card: Card) -> set[str]:
    return {spec.kind for spec in card.streams.values()}


def _event_sets(count: int, card: Card, rng: Generator) -> Iterator[tuple[str, list[Clip]]]:
    noise = [_random_events(card.streams, rng) for _ in range(count)]
    yield "random events", [Clip(None, None, events=events) for events in noise]
    heard = [name for name, spec in card.streams.items() if isinstance(spec, ChannelEventSpec)]
    unseen = voices.unseen_words(count, card.labels) if heard else ()
    if unseen:
        words = []
        for word, events in zip(unseen, noise, strict=False):
            spoken = sound_to_events(_spoken(word, rng))
            words.append(Clip(None, None, events={**events, **dict.fromkeys(heard, spoken)}))
        others = len(heard) < len(card.streams)
        yield f"{_other_words(card)}{', and random events' * others}", words


def _random_events(
    specs: Mapping[str, Spec], rng: Generator
) -> dict[str, CameraEvents | ChannelEvents]:
    """Return events at random times of random pixels and channels, by stream."""
    events: dict[str, CameraEvents | ChannelEvents] = {}
    for name, spec in specs.items():
        if isinstance(spec, EventFrameSpec):
            height, width = sensor = spec.sensor or _SENSOR
            times = _times(_CAMERA_EVENTS, rng)
            x, y = (rng.integers(side, size=len(times)) for side in (width, height))
            events[name] = CameraEvents(x, y, times, rng.random(len(times)) < 0.5, sensor)
        elif isinstance(spec, ChannelEventSpec):
            times = _times(_COCHLEA_EVENTS, rng)
            events[name] = ChannelEvents(rng.integers(spec.bands, size=len(times)), times)
    return events


def _times(count: tuple[int, int], rng: Generator) -> NDArray[np.int64]:
    """Draw a number of events, log-uniform, and their times in order, in microseconds."""
    number = round(float(np.exp(rng.uniform(*np.log(count)))))
    return np.sort(rng.integers(_TIME_US, size=number))


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


def _foreign(folder: Path, kinds: set[str], count: int, rng: Generator) -> list[Clip]:
    """Return random pairs of a picture and 2 s of a sound of a folder, or one of them alone."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    sounds = [path for path in files if kind_of(path) == "sound"]
    pictures = [path for path in files if kind_of(path) == "picture"]
    needed = {"spectrogram": sounds, "frames": pictures}
    if not all(needed[kind] for kind in kinds):
        each = " and one picture" if len(kinds) > 1 else ""
        one = "one picture" if kinds == {"frames"} else f"one sound{each}"
        raise DataError(
            f"{folder}: {len(sounds)} sounds and {len(pictures)} pictures; at least {one} is needed"
        )
    rng.shuffle(sounds)
    rng.shuffle(pictures)
    pairs = islice(zip(cycle(sounds or [None]), cycle(pictures or [None]), strict=False), count)
    return [
        Clip(_part(sound, rng) if sound else None, _still(picture) if picture else None)
        for sound, picture in pairs
    ]


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
