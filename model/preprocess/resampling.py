"""The published resamplings: of sounds in time and of pictures in space, as weighted sums."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import soxr
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def soxr_resampled(samples: Floats, old: int, new: int) -> Floats:
    return np.asarray(soxr.resample(samples, old, new, "HQ"), np.float32)


def sinc_resampled(samples: Floats, old: int, new: int) -> Floats:
    """Resampling as published: a sinc of six zero crossings under a Hann window.

    It leaves images above an upsampled sound's band, 60 dB down, that networks trained on it
    have seen. Output i of `new` lies at input i old / new.
    """
    divisor = math.gcd(old, new)
    old, new = old // divisor, new // divisor
    firsts, weights = _sinc_weights(old, new)
    taps = weights.shape[1]
    count = -(-len(samples) * new // old)
    turns = -(-count // new)
    before = -int(firsts[0])
    after = max(0, int(firsts[-1]) + (turns - 1) * old + taps - len(samples))
    pieces = np.lib.stride_tricks.sliding_window_view(np.pad(samples, (before, after)), taps)
    result = np.empty((turns, new), np.float32)
    for phase, (first, weight) in enumerate(zip(firsts, weights, strict=True)):
        result[:, phase] = pieces[first + before :: old][:turns] @ weight
    return result.ravel()[:count]


@lru_cache(maxsize=4)
def _sinc_weights(old: int, new: int) -> tuple[NDArray[np.int64], Floats]:
    """First input [new] and weights [new, taps] of each of the `new` phases."""
    crossings, rolloff = 6, 0.99
    cutoff = min(old, new) * rolloff
    width = math.ceil(crossings * old / cutoff)
    positions = np.arange(new) * old / new
    firsts = np.floor(positions).astype(np.int64) - width
    inputs = firsts[:, None] + np.arange(2 * width + 2)
    at = np.clip((inputs - positions[:, None]) * cutoff / old, -crossings, crossings)
    weights = np.sinc(at) * np.cos(at * np.pi / crossings / 2) ** 2 * cutoff / old
    return firsts, weights.astype(np.float32)


@lru_cache(maxsize=64)
def bilinear_part(length: int, resized: int, first: int, count: int) -> tuple[int, int, Floats]:
    """Antialiased bilinear weights for outputs first … first + count of `resized`.

    Returns begin, end and weights [count, end - begin] over inputs begin … end of `length`:
    a triangle as wide as an output pixel (an input pixel, when enlarging) around its centre.
    """
    scale = length / resized
    reach = max(scale, 1.0)
    centres = (np.arange(first, first + count) + 0.5) * scale
    begin = max(0, int(np.floor(centres[0] - reach)))
    end = min(length, int(np.ceil(centres[-1] + reach)) + 1)
    inputs = np.arange(begin, end) + 0.5
    weights = np.maximum(0.0, 1 - np.abs(inputs[None] - centres[:, None]) / reach)
    return begin, end, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def bilinear(length: int, resized: int) -> Floats:
    """Antialiased bilinear weights [resized, length]."""
    return bilinear_part(length, resized, 0, resized)[2]
