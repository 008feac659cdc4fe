"""Outlier exposure (arXiv 1812.04606): out-of-distribution examples among those of a task.

Outliers are noise, blank pages, patterns and words that are no class; for them, the loss asks for
equal probabilities of all classes. `scmrl train --outlier-share SHARE` trains with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator

from model.arrays import Float32Array, UInt8Array
from model.media.types import Pictures, Sound
from model.preprocess.events import prepare_camera_events, prepare_channel_events
from model.preprocess.frames import prepare_frames
from model.preprocess.specs import (
    ChannelEventSpec,
    EventFrameSpec,
    FrameSpec,
    Spec,
    SpectrogramSpec,
)
from model.preprocess.spectrogram import prepare_spectrogram
from model.training import backgrounds
from model.training.options import OptionsError, TrainOptions
from model.training.out_of_distribution.outlier_events import (
    draw_camera_events,
    draw_channel_events,
)
from model.training.speech import voices
from model.training.speech.folder import RATE
from model.training.speech.recording import noise, record
from model.training.speech.spectrogram import augment_spectrogram
from model.training.task import BatchPlan, Examples

#: Label of an outlier, which has no class: the label that torch's cross-entropy ignores.
NO_CLASS = -100
#: Takes of spoken words that are drawn from.
_OTHER_WORDS = 1000
#: Share of spoken words among the sounds, where there are any.
_WORDS = 0.5
#: Seconds of a sound.
_SECONDS = (0.7, 3.2)
#: Number of patterns that pictures are cut from.
_PATTERNS = 400


@dataclass(frozen=True)
class OutlierExposure:
    """The examples of a task, of which a share is replaced by outliers.

    `specs`: preprocessing of each stream. `share`: 0 to 1. `words`: takes of spoken words that are
    no class, mono at RATE Hz; none where no speech synthesizer is installed.
    """

    examples: Examples
    specs: dict[str, Spec]
    share: float
    seed: int
    words: Sequence[Float32Array] = ()

    def example(self, index: int, plan: BatchPlan) -> tuple[dict[str, Float32Array], int]:
        """Return tensors [T or 1, C, H, W] of the plan's streams, and the class or NO_CLASS."""
        rng = np.random.default_rng([self.seed, index, 4])
        if rng.random() >= self.share:
            return self.examples.example(index, plan)
        steps = plan.steps
        return {name: self._draw(self.specs[name], steps, rng) for name in plan.streams}, NO_CLASS

    def _draw(self, spec: Spec, steps: int, rng: Generator) -> Float32Array:
        if isinstance(spec, SpectrogramSpec):
            sound = draw_outlier_sound(self.words, rng)
            return augment_spectrogram(prepare_spectrogram(sound, spec).tensor, rng)
        if isinstance(spec, FrameSpec):
            return prepare_frames(Pictures((draw_outlier_picture(rng),), (0.0,)), spec, 1).tensor
        if isinstance(spec, EventFrameSpec):
            return prepare_camera_events(draw_camera_events(spec, rng), spec, steps).tensor
        if isinstance(spec, ChannelEventSpec):
            heard = draw_channel_events(spec, lambda: draw_outlier_sound(self.words, rng), rng)
            return prepare_channel_events(heard, spec, steps).tensor
        raise TypeError(f"{type(spec).__name__}: no outliers can be drawn for it")


def with_outliers(options: TrainOptions, examples: Examples) -> Examples:
    """Replace a share of the task's examples by outliers, where `outlier_share` asks for them.

    Raises OptionsError where no outliers can be drawn for the task's streams.
    """
    if not options.outlier_share:
        return examples
    specs = dict(options.task.specs)
    if not can_draw_outliers(list(specs.values())):
        raise OptionsError(
            "--outlier-share: outliers can be drawn for sounds, pictures and events only; "
            f"{options.task.name} has other streams"
        )
    words = voices.other_words(_OTHER_WORDS, options.out.parent)
    return OutlierExposure(examples, specs, options.outlier_share, options.seed, words)


def can_draw_outliers(specs: Sequence[Spec]) -> bool:
    """Return whether outliers can be drawn for these streams: for sounds, pictures and events."""
    return all(
        isinstance(spec, FrameSpec | SpectrogramSpec | EventFrameSpec | ChannelEventSpec)
        for spec in specs
    )


def draw_outlier_sound(words: Sequence[Float32Array], rng: Generator) -> Sound:
    """Draw a sound of no class: one of the words, noise, tones, clicks, or near silence."""
    if words and rng.random() < _WORDS:
        return Sound(record(words[int(rng.integers(len(words)))], RATE, rng).samples[None], RATE)
    length = round(rng.uniform(*_SECONDS) * RATE)
    make = (_coloured_noise, _tones, _clicks, _hiss)[int(rng.choice(4, p=(0.4, 0.3, 0.2, 0.1)))]
    samples = make(length, rng)
    level = 10 ** rng.uniform(-3, -0.3) / (np.abs(samples).max() + 1e-9)
    return Sound((samples * np.float32(level))[None], RATE)


def _coloured_noise(length: int, rng: Generator) -> Float32Array:
    """Noise from white to brown, which may swell and fade."""
    samples = noise(length, float(rng.uniform(0, 1)), rng)
    if rng.random() < 0.5:
        samples *= _envelope(length, rng)
    return samples


def _tones(length: int, rng: Generator) -> Float32Array:
    """Hum, whistles and chords: tones with overtones that glide, over a little noise."""
    seconds = np.arange(length, dtype=np.float32) / RATE
    samples = noise(length, 0.5, rng) * np.float32(10 ** rng.uniform(-3, -0.5))
    for _ in range(int(rng.integers(1, 5))):
        pitch, glide = 10 ** rng.uniform(1.7, 3.3), rng.uniform(-0.5, 0.5) * (rng.random() < 0.5)
        phase = 2 * np.pi * pitch * (seconds + glide * seconds**2 / 2)
        for overtone in range(1, int(rng.integers(2, 7))):
            samples += (np.sin(overtone * phase) / overtone).astype(np.float32)
    return np.asarray(samples * _envelope(length, rng), np.float32)


def _clicks(length: int, rng: Generator) -> Float32Array:
    """Knocks and clicks: short bursts of noise that die away."""
    samples = noise(length, 0.5, rng) * np.float32(0.01)
    for _ in range(int(rng.integers(1, 12))):
        start = int(rng.integers(length))
        burst = min(length - start, int(rng.integers(20, 1500)))
        decay = np.exp(-np.linspace(0, 6, burst, dtype=np.float32))
        samples[start : start + burst] += noise(burst, float(rng.uniform(0, 1)), rng) * decay
    return samples


def _hiss(length: int, rng: Generator) -> Float32Array:
    """The last bits of a microphone in a silent room."""
    steps = np.round(noise(length, 0.0, rng) * rng.uniform(0.3, 3))
    return np.asarray(steps / 32768, np.float32)


def _envelope(length: int, rng: Generator) -> Float32Array:
    """Draw a smooth loudness over time [length], 0 to 1."""
    knots = rng.uniform(0, 1, int(rng.integers(2, 12)))
    positions = np.linspace(0, len(knots) - 1, length)
    return np.interp(positions, np.arange(len(knots)), knots).astype(np.float32)


def draw_outlier_picture(rng: Generator) -> UInt8Array:
    """Draw a picture of no class, uint8 RGB: a pattern, an empty page, or noise."""
    height = int(rng.integers(90, 200))
    width = int(height * rng.uniform(0.75, 1.8))
    kind = rng.random()
    if kind < 0.6:
        return backgrounds.cut_background(_patterns(), rng, height, width)
    if kind < 0.85:
        return _page(height, width, rng)
    grain = rng.normal(rng.uniform(60, 200), rng.uniform(5, 80), (height, width, 3))
    if rng.random() < 0.5:
        grain[:] = grain[:, :, :1]
    return np.clip(grain, 0, 255).astype(np.uint8)


@lru_cache(maxsize=1)
def _patterns() -> tuple[UInt8Array, ...]:
    """Return the patterns that pictures are cut from: none of strokes, which can look like a
    digit."""
    strokes = ("writing", "wanderings", "rods")
    kinds = tuple(kind for kind in backgrounds.KINDS if kind not in strokes)
    return backgrounds.pool(kinds, _PATTERNS, 5)


def _page(height: int, width: int, rng: Generator) -> UInt8Array:
    """Draw an empty page with a shadow over it and a camera's noise."""
    across = np.linspace(-1, 1, width)[None, :, None] * rng.uniform(-40, 40)
    down = np.linspace(-1, 1, height)[:, None, None] * rng.uniform(-40, 40)
    page = rng.uniform(20, 245, 3) + across + down + rng.normal(0, rng.uniform(0.5, 8), (1, 1, 3))
    return np.clip(page + rng.normal(0, rng.uniform(0.3, 8), (height, width, 3)), 0, 255).astype(
        np.uint8
    )
