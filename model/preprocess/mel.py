"""Slaney's mel scale, and the bands of a spectrogram on it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from model.preprocess.prepared import Floats
from model.preprocess.specs import SpectrogramSpec


def _mel(frequency: float) -> float:
    """Slaney's mel scale: linear to 1 kHz, logarithmic above."""
    if frequency < 1000:
        return frequency * 3 / 200
    return 15 + 27 * float(np.log(frequency / 1000) / np.log(6.4))


def _hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) / 27 * np.log(6.4)))


@lru_cache(maxsize=16)
def mel_weights(bands: int, fmin: float, fmax: float, rate: int, n_fft: int) -> Floats:
    """Triangular bands [bands, n_fft // 2 + 1], each summing to 1.

    Each triangle is integrated over the bins' linear interpolation, so that none is empty where
    bands are narrower than bins.
    """
    points = _hertz(np.linspace(_mel(fmin), _mel(fmax), bands + 2))
    weights = np.zeros((bands, n_fft // 2 + 1))
    for band, (low, centre, high) in enumerate(zip(points, points[1:], points[2:], strict=False)):
        at = np.linspace(low, high, 203)[1:-1]
        height = np.minimum((at - low) / (centre - low), (high - at) / (high - centre))
        position = np.minimum(at * n_fft / rate, n_fft // 2)
        lower = np.minimum(position.astype(int), n_fft // 2 - 1)
        np.add.at(weights[band], lower, height * (lower + 1 - position))
        np.add.at(weights[band], lower + 1, height * (position - lower))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


@lru_cache(maxsize=16)
def band_edges(spec: SpectrogramSpec) -> NDArray[np.float64]:
    """Edges in Hz of the rows before any resize, [bands + 1]."""
    if spec.mel_bands is None:
        bins = (np.arange(spec.bands + 1) - 0.5) * spec.sample_rate / spec.n_fft
        return np.clip(bins, 0, spec.sample_rate / 2)
    low, high = _mel(spec.fmin), _mel(spec.top_frequency)
    half = (high - low) / (spec.mel_bands + 1) / 2
    return _hertz(np.linspace(low + half, high - half, spec.mel_bands + 1))
