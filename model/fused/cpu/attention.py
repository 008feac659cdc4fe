"""The product of an attention and its neurons, of one sample on a CPU.

No attention matrix is built: q (k^T v) is the same integers as (q k^T) v, and only rows that belong
to spikes of k and of q are added. Spikes q, k, v are float32 [T, N, C], rows of which are
contiguous. The length of the tuple `head` is the number of a head's channels
(model/fused/cpu/vectors.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types

from model.arrays import Float32Array
from model.fused.cpu.numba_kernels import jit
from model.fused.cpu.vectors import MASK, intrinsic, lowest_bit, mask_of_values, pointers

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


@jit
def attend_over_tokens(
    q: Float32Array, k: Float32Array, v: Float32Array, head: tuple[int, ...],
    scale: np.float32, decay: np.float32, spikes: Float32Array,
) -> None:  # fmt: skip
    """Write the spikes [T, N, C] of scale q (k^T v) over the tokens at each step; k and v are [T,
    N_source, C]."""
    steps, tokens, channels = q.shape
    width = len(head)
    products = np.zeros((steps, channels * width), np.float32)  # k^T v of each head
    for t in range(steps):
        for n in range(k.shape[1]):
            _add_products(k[t, n], v[t, n], head, products[t])
    sums = np.empty(channels, np.float32)
    potential = np.empty(channels, np.float32)
    for n in range(tokens):
        potential[:] = _ZERO
        for t in range(steps):
            sums[:] = _ZERO
            _multiply(q[t, n], products[t], head, 1, 0, sums)
            _fire(sums, 0, scale, decay, potential, spikes[t, n])


@jit
def attend_over_steps(
    q: Float32Array, k: Float32Array, v: Float32Array, head: tuple[int, ...],
    scale: np.float32, decay: np.float32, spikes: Float32Array,
) -> None:  # fmt: skip
    """Write the spikes [T, N, C] of scale q (k^T v) over the steps at each token.

    As in the published code, [heads, T, d] is reshaped to [T, C] without a transpose: see
    `_mix_heads_and_steps` in model/network/attention.py.
    """
    steps, tokens, channels = q.shape
    products = np.empty(channels * len(head), np.float32)  # k^T v of each head
    sums = np.empty(steps * channels, np.float32)  # [heads, T, d], and [T, C]
    potential = np.empty(channels, np.float32)
    for n in range(tokens):
        products[:] = _ZERO
        for t in range(steps):
            _add_products(k[t, n], v[t, n], head, products)
        sums[:] = _ZERO
        for t in range(steps):
            _multiply(q[t, n], products, head, steps, t, sums)
        potential[:] = _ZERO
        for t in range(steps):
            _fire(sums, t * channels, scale, decay, potential, spikes[t, n])


@intrinsic
def _add_head(typing: Any, target: Any, to: Any, source: Any, at: Any, head: Any) -> Any:
    """Add to target[to:] the values source[at:] of a head."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(ir.FloatType(), head.count)
        pointer = pointers(context, builder, signature, args)
        sums, row = pointer(0, args[1], vector), pointer(2, args[3], vector)
        total = builder.fadd(builder.load(sums, align=4), builder.load(row, align=4))
        builder.store(total, sums, align=4)
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64, head), generate


@jit
def _add_products(
    k: Float32Array, v: Float32Array, head: tuple[int, ...], products: Float32Array
) -> None:
    """Add k^T v of each head, of one token's k and v [C], to products [C d]."""
    width = len(head)
    whole = len(k) - len(k) % MASK
    for first in range(0, whole, MASK):
        mask = mask_of_values(k, first)
        while mask != np.uint64(0):
            channel = first + np.int64(lowest_bit(mask))
            _add_head(products, channel * width, v, channel - channel % width, head)
            mask &= mask - np.uint64(1)
    for c in range(whole, len(k)):
        if k[c] != _ZERO:
            _add_head(products, c * width, v, c - c % width, head)


@jit
def _multiply(
    q: Float32Array, products: Float32Array, head: tuple[int, ...], steps: int, step: int,
    sums: Float32Array,
) -> None:  # fmt: skip
    """Add q times products [C d] of each head, of one token's q [C], to sums [heads steps d]."""
    width = len(head)
    whole = len(q) - len(q) % MASK
    for first in range(0, whole, MASK):
        mask = mask_of_values(q, first)
        while mask != np.uint64(0):
            channel = first + np.int64(lowest_bit(mask))
            row = channel // width * steps + step
            _add_head(sums, row * width, products, channel * width, head)
            mask &= mask - np.uint64(1)
    for c in range(whole, len(q)):
        if q[c] != _ZERO:
            to = (c // width * steps + step) * width
            _add_head(sums, to, products, c * width, head)


@jit
def _fire(
    sums: Float32Array, first: int, scale: np.float32, decay: np.float32,
    potential: Float32Array, spikes: Float32Array,
) -> None:  # fmt: skip
    """Write the spikes [C] of neurons whose currents are scale sums[first:]."""
    for c in range(len(potential)):
        h = potential[c] * decay + sums[first + c] * scale
        spike = h >= _ONE
        spikes[c] = _ONE if spike else _ZERO
        potential[c] = _ZERO if spike else h
