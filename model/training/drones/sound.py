"""Sounds to train on: parts of recordings, mixed, as another microphone would have heard them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.random import Generator

from model.arrays import Float32Array
from model.media.types import Sound
from model.preprocess.profiles import PROFILES
from model.preprocess.specs import SpectrogramSpec
from model.preprocess.spectrogram import prepare_spectrogram
from model.training.augmentation import mask_spectrogram
from model.training.drones.folder import RATE, Recording
from model.training.speech.recording import noise

SPEC = cast(SpectrogramSpec, PROFILES["drones"]["audio"])
#: Length in seconds of the sound of a clip.
SECONDS = 3.0
#: Greatest change of speed (exponent of e), and of a band's level and of all levels in dB.
_SPEED, _EQUALISER_DB, _LEVEL_DB = 0.3, 12.0, 3.0
#: Shares of the sounds that another of the same class, the background, and noise are added to; of
#: the background, the share that another part of the background is added to.
_DOUBLED, _WITH_BACKGROUND, _WITH_NOISE, _LAYERED = 0.4, 0.35, 0.2, 0.5
#: Level in dB of a sound over what is added to it.
_OVER_OTHER, _OVER_BACKGROUND, _OVER_NOISE = (-3.0, 10.0), (0.0, 25.0), (5.0, 35.0)


def cut(recording: Recording, rng: Generator, seconds: float = SECONDS) -> Float32Array:
    """Return a random part of a recording [n]; the whole of a shorter one."""
    length = min(len(recording.samples), round(seconds * RATE))
    start = int(rng.integers(len(recording.samples) - length + 1))
    return recording.samples[start : start + length]


def draw_sound(
    recordings: Sequence[Recording],
    backgrounds: Sequence[Recording],
    rng: Generator,
    difficulty: float,
) -> Float32Array:
    """Draw a sound [n] at RATE from `recordings`, which are of one class.

    Another one of them and one of the `backgrounds` may be mixed in; speed
    and noise are drawn. At difficulty 0, it is a part of a recording as it is.
    """
    samples = _changed(recordings, rng, difficulty)
    share = _LAYERED if recordings is backgrounds else _DOUBLED
    if rng.random() < share * difficulty:
        samples = _add(samples, _changed(recordings, rng, difficulty), rng.uniform(*_OVER_OTHER))
    if rng.random() < _WITH_BACKGROUND * difficulty:
        added = _changed(backgrounds, rng, difficulty)
        samples = _add(samples, added, rng.uniform(*_OVER_BACKGROUND))
    if rng.random() < _WITH_NOISE * difficulty:
        hiss = noise(len(samples), float(rng.choice([0.0, 0.5, 1.0])), rng)
        samples = _add(samples, hiss, rng.uniform(*_OVER_NOISE))
    return samples


def spectrogram(samples: Float32Array) -> Float32Array:
    """Return the spectrogram [1, 1, H, W] of samples [n] at RATE, as they are served."""
    return prepare_spectrogram(Sound(samples[None], RATE), SPEC).tensor


def draw_spectrogram(
    recordings: Sequence[Recording],
    backgrounds: Sequence[Recording],
    rng: Generator,
    difficulty: float,
) -> Float32Array:
    """Draw a sound as `draw_sound` does, and return its spectrogram [1, 1, H, W], as another
    microphone would have it, with stripes blanked."""
    tensor = spectrogram(draw_sound(recordings, backgrounds, rng, difficulty))
    knots = rng.uniform(-_EQUALISER_DB, _EQUALISER_DB, 6) * rng.uniform(0, difficulty)
    gains = np.interp(np.linspace(0, 5, SPEC.size[0]), np.arange(6), knots)
    gains += rng.uniform(-_LEVEL_DB, _LEVEL_DB) * difficulty
    in_units = gains * (np.log(10) / 20 / SPEC.std)
    low, high = ((level - SPEC.mean) / SPEC.std for level in SPEC.clip or (-np.inf, np.inf))
    tensor = np.clip(tensor + in_units[:, None].astype(np.float32), low, high)
    return mask_spectrogram(tensor, rng, difficulty)


def _changed(recordings: Sequence[Recording], rng: Generator, difficulty: float) -> Float32Array:
    """Return a part of one of the recordings at another speed."""
    recording = recordings[int(rng.integers(len(recordings)))]
    factor = float(np.exp(rng.uniform(-_SPEED, _SPEED) * difficulty))
    samples = cut(recording, rng, SECONDS * factor)
    count = max(1, round(len(samples) / factor))
    at = np.linspace(0, len(samples) - 1, count)
    return np.asarray(np.interp(at, np.arange(len(samples)), samples), np.float32)


def _add(samples: Float32Array, added: Float32Array, ratio_db: float) -> Float32Array:
    """Return a sound with another one added, of less power by `ratio_db`."""
    length = min(len(samples), len(added))
    power, other_power = float(np.mean(samples**2)), float(np.mean(added**2))
    gain = np.sqrt(power * 10 ** (-ratio_db / 10) / max(other_power, 1e-12))
    return np.asarray(samples[:length] + added[:length] * np.float32(gain), np.float32)
