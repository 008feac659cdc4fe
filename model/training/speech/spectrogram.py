"""Spectrograms of spoken digits, and their augmentation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from model.arrays import Float32Array
from model.media.types import Sound
from model.preprocess.specs import SpectrogramSpec
from model.preprocess.spectrogram import prepare_spectrogram
from model.training.speech.folder import RATE
from model.training.speech.recording import record

#: Share of the synthetic takes among those that are drawn.
SYNTHETIC = 0.4


def draw_spectrogram(
    takes: Sequence[Float32Array],
    synthetic: Sequence[Float32Array],
    spec: SpectrogramSpec,
    rng: Generator,
    augmented: bool,
) -> Float32Array:
    """Return the spectrogram [1, 1, bands, columns] of a recording of one of a word's takes.

    Takes are mono at RATE Hz. `augmented`: with heavy noise, stretched and masked.
    """
    if synthetic and rng.random() < SYNTHETIC:
        takes = synthetic
    snr_db = None if augmented else float(rng.uniform(10, 40))
    recording = record(takes[int(rng.integers(len(takes)))], RATE, rng, snr_db=snr_db)
    tensor = prepare_spectrogram(Sound(recording.samples[None], RATE), spec).tensor
    return augment_spectrogram(tensor, rng) if augmented else tensor


def augment_spectrogram(tensor: Float32Array, rng: Generator) -> Float32Array:
    """Stretch the bands of a spectrogram [1, 1, bands, columns] (another vocal tract), shift it by
    a few columns, and blank some bands or columns (SpecAugment, arXiv 1904.08779)."""
    bands, columns = tensor.shape[2:]
    plane = tensor[0, 0]
    if rng.random() < 0.6:
        stretch, shift = rng.uniform(0.86, 1.16), rng.uniform(-3, 3)
        positions = np.arange(bands) * stretch + shift
        low = np.clip(np.floor(positions).astype(int), 0, bands - 2)
        fraction = np.clip(positions - low, 0, 1).astype(np.float32)[:, None]
        plane = plane[low] * (1 - fraction) + plane[low + 1] * fraction
    plane = np.roll(plane, int(rng.integers(-12, 13)), axis=1)
    if rng.random() < 0.3:
        first = int(rng.integers(0, bands - 8))
        plane[first : first + int(rng.integers(1, 9))] = plane.min()
    if rng.random() < 0.3:
        first = int(rng.integers(0, columns - 14))
        plane[:, first : first + int(rng.integers(1, 15))] = plane.min()
    return np.ascontiguousarray(plane, np.float32)[None, None]
