"""Encode values as spikes over time steps: direct, rate and latency encoding. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np

from model.arrays import Float32Array
from model.preprocess.prepared import Prepared

Encoding = Literal["direct", "rate", "latency"]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)


def encode_clip(
    prepared: Mapping[str, Prepared], encoding: Encoding, steps: int
) -> dict[str, Float32Array]:
    """Encode one clip for `steps` time steps: float32 [T or 1, C, H, W] by stream.

    With direct encoding a single frame stays [1, C, H, W], which the engine computes once instead
    of T times.
    """
    values = {name: stream.tensor for name, stream in prepared.items()}
    if encoding == "direct":
        return values
    return {name: encode(x, steps, encoding) for name, x in values.items()}


def encode(values: Float32Array, steps: int, encoding: Encoding, *, seed: int = 0) -> Float32Array:
    """Encode one stream of one clip, [T or 1, ...], for `steps` time steps, [steps, ...].

    - `direct`: the values are the input current of the first layer at each step, as published. A
      single step is repeated as a read-only view, without memory of its own.
    - `rate`: Poisson (Bernoulli) encoding: a spike with the value's probability, independently at
      each step. The generator has a fixed `seed`, so that a clip always has the same answer. It
      draws what torch's does.
    - `latency`: one spike at step (T - 1)(1 - x), rounded: larger values fire earlier. x is the
      mean over the steps of `values`.

    Values of rate and latency encoding are clipped to [0, 1]. Raises ValueError for an unknown
    encoding, or if `values` has neither 1 nor `steps` time steps.
    """
    if len(values) not in (1, steps):
        raise ValueError(f"{len(values)} time steps; expected 1 or {steps}")
    if encoding == "direct":
        return np.broadcast_to(values, (steps, *values.shape[1:]))
    if encoding == "rate":
        return _encode_rate(values, steps, seed)
    if encoding == "latency":
        return _encode_latency(values, steps)
    raise ValueError(f"unknown encoding {encoding!r}; choose {', '.join(ENCODINGS)}")


def _encode_rate(values: Float32Array, steps: int, seed: int) -> Float32Array:
    drawn = np.random.RandomState(seed).randint(0, 2**32, (steps, *values.shape[1:]), np.uint32)
    thresholds = (drawn & 0xFFFFFF).astype(np.float32) * np.float32(2**-24)  # in [0, 1)
    return (thresholds < values).astype(np.float32)  # 0 never fires, 1 always does


def _encode_latency(values: Float32Array, steps: int) -> Float32Array:
    spike_step: Float32Array = np.rint((steps - 1) * (1 - values.mean(0).clip(0, 1)))
    step = np.arange(steps, dtype=np.float32).reshape(-1, *[1] * spike_step.ndim)
    return np.asarray(step == spike_step, np.float32)
