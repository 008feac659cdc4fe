"""Recordings to train on: a spoken digit somewhere in a noisy clip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soxr
from numpy.random import Generator
from scipy.fft import irfft, next_fast_len, rfft

from model.arrays import Float32Array
from model.media.types import Sound
from model.training.speech.folder import RATE


@dataclass(frozen=True)
class Recording:
    """Mono `samples` [n] in [-1, 1] at `rate` Hz; the word from `begin` to `end` in seconds."""

    samples: Float32Array
    rate: int
    begin: float
    end: float

    @property
    def sound(self) -> Sound:
        """Its samples as those of a clip."""
        return Sound(self.samples[None], self.rate)


def record(
    word: Float32Array,
    rate: int,
    rng: Generator,
    seconds: tuple[float, float] = (0.7, 3.2),
    speed: float = 0.25,
    snr_db: float | None = None,
) -> Recording:
    """Make a random recording of one spoken word.

    `word` [n] is mono at `rate` Hz. `seconds` bounds the clip's length, exp(±`speed`) the
    factor on tempo and pitch. `snr_db` fixes the level of white noise; else noise of a random
    colour and level is added to two clips in three.
    """
    factor = float(np.exp(rng.uniform(-speed, speed)))
    word = np.asarray(soxr.resample(word, rate * factor, rate, quality="MQ"), np.float32)
    word = _color(word, rng)
    length = max(round(rng.uniform(*seconds) * rate), len(word) + rate // 20)
    start = int(rng.integers(0, length - len(word) + 1))
    samples = np.zeros(length, np.float32)
    samples[start : start + len(word)] = word
    power = float(np.mean(word**2)) + 1e-12
    if snr_db is not None:
        samples += noise(length, 0.0, rng) * np.float32(np.sqrt(power * 10 ** (-snr_db / 10)))
    elif rng.random() < 0.67:
        level = np.sqrt(power * 10 ** (-rng.uniform(-3, 35) / 10))
        samples += noise(length, float(rng.choice([0.0, 0.0, 0.5, 1.0])), rng) * np.float32(level)
    peak = float(np.abs(samples).max()) + 1e-9
    gain = 10 ** rng.uniform(-1.6, 0.0)
    if rng.random() < 0.05:  # an overdriven microphone
        gain = rng.uniform(1.2, 3)
    samples = np.clip(samples * np.float32(gain / peak), -1, 1)
    return Recording(samples, rate, start / rate, (start + len(word)) / rate)


def record_for_evaluation(word: Float32Array, rng: Generator) -> Recording:
    """Make a random recording of a word [n], mono at RATE, as clips to evaluate on have."""
    snr_db = rng.uniform(15, 40)
    return record(word, RATE, rng, seconds=(1.2, 3.0), speed=0.15, snr_db=snr_db)


def noise(length: int, slope: float, rng: Generator) -> Float32Array:
    """Draw noise [length] of unit power whose amplitude falls with frequency^slope (0: white)."""
    white = rng.standard_normal(length, np.float32)
    if slope == 0:
        return white
    size = next_fast_len(length, real=True)
    spectrum = rfft(white, size)
    spectrum *= np.maximum(np.arange(len(spectrum)), len(spectrum) / 100) ** -slope
    shaped = irfft(spectrum, size)[:length]
    return np.asarray(shaped / (shaped.std() + 1e-12), np.float32)


def _color(word: Float32Array, rng: Generator) -> Float32Array:
    """Filter the word by a random microphone (smooth equaliser, ±10 dB) and perhaps a room."""
    tail = 1200 if rng.random() < 0.3 else 0
    length = len(word) + tail
    size = next_fast_len(length, real=True)
    spectrum = rfft(word, size)
    knots = rng.uniform(-10, 10, 6) * rng.uniform(0, 1)
    positions = np.linspace(0, 5, len(spectrum)) ** 0.7 * 5**0.3
    spectrum = spectrum * 10 ** (np.interp(positions, np.arange(6), knots) / 20)
    if tail:
        decay = np.exp(-np.arange(tail) / rng.uniform(60, 400))
        room = rng.standard_normal(tail) * decay * rng.uniform(0.02, 0.2)
        room[0] = 1
        spectrum = spectrum * rfft(room, size)
    return np.asarray(irfft(spectrum, size)[:length], np.float32)
