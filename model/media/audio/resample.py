"""Resample sounds: by soxr, and by the windowed sinc that the paper's implementation uses."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import soxr
from numpy.typing import NDArray

from model.arrays import Float32Array


def resample_soxr(samples: Float32Array, old_rate: int, new_rate: int) -> Float32Array:
    """Resample `samples` [n] or [n, channels] by soxr in high quality. Rates are in Hz."""
    return np.asarray(soxr.resample(samples, old_rate, new_rate, "HQ"), np.float32)


def resample_sinc(samples: Float32Array, old_rate: int, new_rate: int) -> Float32Array:
    """Resample `samples` [n] by a sinc of six zero crossings under a Hann window, as published.

    Output sample i lies at input position i * old_rate / new_rate. Upsampling leaves images above
    the original band at -60 dB; published networks were trained with them.
    """
    divisor = math.gcd(old_rate, new_rate)
    old, new = old_rate // divisor, new_rate // divisor
    starts, weights = _sinc_weights(old, new)
    taps = weights.shape[1]
    count = -(-len(samples) * new // old)
    periods = -(-count // new)
    left = -int(starts[0])  # padding, in samples
    right = max(0, int(starts[-1]) + (periods - 1) * old + taps - len(samples))
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(samples, (left, right)), taps)
    resampled = np.empty((periods, new), np.float32)
    for phase, (start, weight) in enumerate(zip(starts, weights, strict=True)):
        resampled[:, phase] = windows[start + left :: old][:periods] @ weight
    return resampled.ravel()[:count]


@lru_cache(maxsize=4)
def _sinc_weights(old: int, new: int) -> tuple[NDArray[np.int64], Float32Array]:
    """Return the first input index [new] and the weights [new, taps] of each output phase."""
    crossings, rolloff = 6, 0.99
    cutoff = min(old, new) * rolloff
    width = math.ceil(crossings * old / cutoff)
    positions = np.arange(new) * old / new
    starts = np.floor(positions).astype(np.int64) - width
    inputs = starts[:, None] + np.arange(2 * width + 2)
    x = np.clip((inputs - positions[:, None]) * cutoff / old, -crossings, crossings)
    weights = np.sinc(x) * np.cos(x * np.pi / crossings / 2) ** 2 * cutoff / old
    return starts, weights.astype(np.float32)
