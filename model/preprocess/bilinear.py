"""Weights of the antialiased bilinear resize, as in Pillow and torchvision."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from model.arrays import Float32Array


def bilinear_weights(length: int, resized: int) -> Float32Array:
    """Return the weights [resized, length] that resize an axis of `length` to `resized`."""
    return cropped_bilinear_weights(length, resized, 0, resized)[2]


@lru_cache(maxsize=64)
def cropped_bilinear_weights(
    length: int, resized: int, first: int, count: int
) -> tuple[int, int, Float32Array]:
    """Return the weights of outputs `first` to `first + count` (excluded) of a resized axis.

    Returns begin, end and weights [count, end - begin] over the inputs `begin` to `end` of
    `length`. Each row is a triangle around the output's centre, as wide as an output pixel when
    shrinking and as an input pixel when enlarging.
    """
    scale = length / resized
    radius = max(scale, 1.0)
    centres = (np.arange(first, first + count) + 0.5) * scale
    begin = max(0, int(np.floor(centres[0] - radius)))
    end = min(length, int(np.ceil(centres[-1] + radius)) + 1)
    inputs = np.arange(begin, end) + 0.5
    weights = np.maximum(0.0, 1 - np.abs(inputs[None] - centres[:, None]) / radius)
    return begin, end, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
