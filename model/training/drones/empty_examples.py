"""Pictures and sounds with nothing in them: they are of the class `other`."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.random import Generator

from model.arrays import Float32Array, UInt8Array
from model.training.drones.folder import RATE
from model.training.speech.recording import noise

_SIDE, _SECONDS = 96, 3.0


def draw_empty_picture(rng: Generator) -> UInt8Array:
    """Draw a plain or shaded page with a camera's grain, or noise, uint8 RGB [96, 96, 3]."""
    colour = rng.uniform(0, 255, 3)
    slope = np.linspace(-1, 1, _SIDE)[None, :, None] * rng.uniform(-40, 40)
    grain = rng.uniform(0, 6) if rng.random() < 0.6 else rng.uniform(6, 120)
    picture: Any = colour + slope + rng.normal(0, grain, (_SIDE, _SIDE, 3))
    if rng.random() < 0.3:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.5, 4))
    return np.asarray(np.clip(picture, 0, 255), np.uint8)


def draw_noise(rng: Generator) -> Float32Array:
    """Draw white to brown noise, 3 s [n] at RATE, now and then with silence before it.

    Most of it swells and fades like wind or traffic, in bands of other levels.
    """
    samples = noise(round(_SECONDS * RATE), float(rng.uniform(0, 1.5)), rng)
    if rng.random() < 0.7:
        samples = _swell(_colour(samples, rng), rng)
    if rng.random() < 0.2:
        samples[: int(rng.integers(len(samples)))] = 0
    return samples * np.float32(0.1)


def _colour(samples: Float32Array, rng: Generator) -> Float32Array:
    """Change the levels of octaves by up to 15 dB."""
    spectrum = np.fft.rfft(samples)
    octave = np.log2(np.arange(1, len(spectrum) + 1))
    knots = rng.uniform(-15, 15, 12)
    gains = np.interp(octave, np.linspace(0, octave[-1], 12), knots)
    changed = np.fft.irfft(spectrum * 10 ** (gains / 20), len(samples))
    return np.asarray(changed / (changed.std() + 1e-12), np.float32)


def _swell(samples: Float32Array, rng: Generator) -> Float32Array:
    """Change the level over time by up to 12 dB, within 0.1 to 1 s."""
    knots = rng.uniform(-12, 0, int(rng.integers(3, 30)))
    gains = np.interp(np.linspace(0, len(knots) - 1, len(samples)), np.arange(len(knots)), knots)
    return np.asarray(samples * 10 ** (gains / 20), np.float32)
