"""The mel scale of a spectrogram's bands: Slaney's, as librosa's default."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from model.arrays import Float32Array, Float64Array
from model.preprocess.specs import SpectrogramSpec

#: Points at which each triangular band is integrated.
_POINTS_PER_BAND = 201


@lru_cache(maxsize=16)
def mel_weights(
    n_mels: int, fmin: float, fmax: float, sample_rate: int, n_fft: int
) -> Float32Array:
    """Return triangular mel filters [n_mels, n_fft // 2 + 1], each summing to 1.

    Each triangle is integrated over the linear interpolation of the bins, so that no filter is
    empty where bands are narrower than bins. Frequencies are in Hz.
    """
    points = _mel_to_hz(np.linspace(_hz_to_mel(fmin), _hz_to_mel(fmax), n_mels + 2))
    weights = np.zeros((n_mels, n_fft // 2 + 1))
    for band, (low, centre, high) in enumerate(zip(points, points[1:], points[2:], strict=False)):
        frequencies = np.linspace(low, high, _POINTS_PER_BAND + 2)[1:-1]
        height = np.minimum(
            (frequencies - low) / (centre - low), (high - frequencies) / (high - centre)
        )
        position = np.minimum(frequencies * n_fft / sample_rate, n_fft // 2)  # in bins
        lower = np.minimum(position.astype(int), n_fft // 2 - 1)
        np.add.at(weights[band], lower, height * (lower + 1 - position))
        np.add.at(weights[band], lower + 1, height * (position - lower))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


@lru_cache(maxsize=16)
def band_edges(spec: SpectrogramSpec) -> Float64Array:
    """Return the edges [bands + 1] of the spectrogram's rows before the resize, in Hz."""
    if spec.n_mels is None:
        bins = (np.arange(spec.bands + 1) - 0.5) * spec.sample_rate / spec.n_fft
        return np.clip(bins, 0, spec.sample_rate / 2)
    low, high = _hz_to_mel(spec.fmin), _hz_to_mel(spec.max_frequency)
    half = (high - low) / (spec.n_mels + 1) / 2
    return _mel_to_hz(np.linspace(low + half, high - half, spec.n_mels + 1))


def _hz_to_mel(frequency: float) -> float:
    """Slaney's scale: linear up to 1 kHz, logarithmic above."""
    if frequency < 1000:
        return frequency * 3 / 200
    return 15 + 27 * float(np.log(frequency / 1000) / np.log(6.4))


def _mel_to_hz(mel: Float64Array) -> Float64Array:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) / 27 * np.log(6.4)))
