"""Augmentation of spectrograms of speech."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rng = np.random.Generator


def augment_spectrogram(tensor: Floats, rng: Rng) -> Floats:
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
