"""Examples of ndigits-events: the events of a camera and of a cochlea, of the same digit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, cast

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from model.arrays import Float32Array
from model.media.events.types import CameraEvents, ChannelEvents
from model.preprocess.cochlea import samples_to_events
from model.preprocess.events import prepare_camera_events, prepare_channel_events
from model.preprocess.profiles import PROFILES
from model.preprocess.specs import ChannelEventSpec, EventFrameSpec
from model.training.ndigits_events.augmentation import augment_camera, augment_channels
from model.training.ndigits_events.folder import Digits
from model.training.speech.folder import RATE
from model.training.speech.recording import record
from model.training.task import BatchPlan

Spec = TypeVar("Spec", EventFrameSpec, ChannelEventSpec)

AUDIO = cast(ChannelEventSpec, PROFILES["ndigits-events"]["audio"])
VISUAL = cast(EventFrameSpec, PROFILES["ndigits-events"]["visual"])
#: Height and width of the camera's sensor in pixels.
SENSOR = (34, 34)
#: Recordings of each take in training: of a real one, and of a synthetic one.
COPIES = (5, 1)
#: Share of synthetic words: three real speakers are few.
SYNTHETIC = 0.6
#: Sequences up to this T have a random part of the recording in training.
SHORT = 2


@dataclass(frozen=True)
class FilmedWords:
    """An endless sequence of examples; example i depends only on the seed and i.

    `synthetic` words, by digit, are mixed into the recorded ones. `augmented`: apply augmentations
    for training; else recordings come in turn.
    """

    digits: Digits
    seed: int
    synthetic: tuple[tuple[Float32Array, ...], ...] = ()
    augmented: bool = True
    cochlea_events: dict[tuple[bool, int, int, int], ChannelEvents] = field(
        default_factory=dict, repr=False, compare=False
    )

    def example(self, index: int, plan: BatchPlan) -> tuple[dict[str, Float32Array], int]:
        """Return tensors [T, C, H, W] of the plan's streams, and the digit."""
        rng = np.random.default_rng([self.seed, index])
        digit = int(rng.integers(10)) if self.augmented else index % 10
        # Each stream has its own seed, so that it does not depend on whether the other is drawn.
        seeds = rng.integers(0, 2**31, 2)
        streams = {}
        if "audio" in plan.streams:
            streams["audio"] = self._sound(digit, plan, np.random.default_rng(seeds[0]))
        if "visual" in plan.streams:
            streams["visual"] = self._film(digit, index, plan, np.random.default_rng(seeds[1]))
        return streams, digit

    def _sound(self, digit: int, plan: BatchPlan, rng: Generator) -> Float32Array:
        if not self.augmented:
            takes = self.digits.words[digit]
            events = word_to_events(takes[int(rng.integers(len(takes)))], rng, augmented=False)
            return prepare_channel_events(events, AUDIO, plan.steps).tensor
        events = augment_channels(self._draw_cochlea_events(digit, rng), AUDIO.bands, rng)
        part, spec = _part(events.time_us, AUDIO, plan.steps, rng)
        events = ChannelEvents(events.channel[part], events.time_us[part])
        return prepare_channel_events(events, spec, plan.steps).tensor

    def _draw_cochlea_events(self, digit: int, rng: Generator) -> ChannelEvents:
        """Draw one of `COPIES` recordings of one of the takes of a word, as a cochlea hears it.

        Each is heard once and kept: that takes longer than a training step.
        """
        is_synthetic = bool(self.synthetic) and rng.random() < SYNTHETIC
        takes = self.synthetic[digit] if is_synthetic else self.digits.words[digit]
        take, copy = int(rng.integers(len(takes))), int(rng.integers(COPIES[is_synthetic]))
        key = (is_synthetic, digit, take, copy)
        if key not in self.cochlea_events:
            own = np.random.default_rng([self.seed, *key])
            self.cochlea_events[key] = word_to_events(takes[take], own, augmented=True)
        return self.cochlea_events[key]

    def _film(self, digit: int, index: int, plan: BatchPlan, rng: Generator) -> Float32Array:
        films = self.digits.films[digit]
        if not self.augmented:
            film = films[index // 10 % len(films)]
            return prepare_camera_events(film.events, VISUAL, plan.steps).tensor
        film = films[int(rng.integers(len(films)))]
        events = augment_camera(film.events, SENSOR, plan.difficulty, rng)
        part, spec = _part(events.time_us, VISUAL, plan.steps, rng)
        x, y, time_us, is_on = (each[part] for each in _fields(events))
        events = CameraEvents(x, y, time_us, is_on.astype(bool), events.sensor)
        return prepare_camera_events(events, spec, plan.steps).tensor


def word_to_events(word: Float32Array, rng: Generator, augmented: bool) -> ChannelEvents:
    """Return a cochlea's events of a recording of a word; there is at least one."""
    for _ in range(20):
        if augmented:
            recording = record(word, RATE, rng, seconds=(0.7, 1.6))
        else:
            snr_db = rng.uniform(15, 40)
            recording = record(word, RATE, rng, seconds=(0.9, 1.6), speed=0.15, snr_db=snr_db)
        events = samples_to_events(recording.samples)
        if len(events.channel):
            return events
    return samples_to_events(word)


def _fields(events: CameraEvents) -> tuple[NDArray[np.int64], ...]:
    return events.x, events.y, events.time_us, events.is_on.astype(np.int64)


def _part(
    time_us: NDArray[np.int64], spec: Spec, steps: int, rng: Generator
) -> tuple[NDArray[np.bool_], Spec]:
    """Return the events of a random part of a recording, and the spec whose windows have the same
    length in it: a short sequence's windows may lie anywhere, a long one's may begin later and end
    earlier."""
    assert spec.share is not None
    least = spec.share if steps <= SHORT else 0.85
    share = float(rng.uniform(least, 1)) if steps != 1 else spec.share
    duration = int(time_us[-1] - time_us[0])
    first = time_us[0] + rng.uniform(0, 1 - share) * duration
    part = (time_us >= first) & (time_us <= first + share * duration)
    if not part.any():
        return np.ones(len(time_us), np.bool_), spec
    return part, spec.model_copy(update={"share": min(1.0, spec.share / share)})
