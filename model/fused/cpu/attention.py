"""The product of an attention and its neurons, of one sample on a CPU.

No attention matrix is built: q (k^T v) is the same integers as (q k^T) v, and only rows that belong
to spikes of k and of q are added. Spikes q, k, v are float32 [T, N, C], rows of which are
contiguous. `head` is that of `head_vectors`.
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
#: The longest vector, as the length of a tuple. Longer ones take seconds to compile, and numba has
#: no tuple of 1,000 elements, while a head may have 8,192 channels.
_VECTOR = (0,) * 128

#: See `head_vectors`.
_Head = tuple[tuple[int, ...], tuple[int, ...]]


def head_vectors(width: int) -> _Head:
    """Return how many vectors of 128 channels a head of `width` channels has, and how many channels
    are left, as the lengths of two tuples (`block_vectors`)."""
    return (0,) * (width // len(_VECTOR)), (0,) * (width % len(_VECTOR))


@jit
def attend_over_tokens(
    q: Float32Array, k: Float32Array, v: Float32Array, head: _Head,
    scale: np.float32, decay: np.float32, spikes: Float32Array,
) -> None:  # fmt: skip
    """Write the spikes [T, N, C] of scale q (k^T v) over the tokens at each step; k and v are [T,
    N_source, C]."""
    steps, tokens, channels = q.shape
    width = _width(head)
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
    q: Float32Array, k: Float32Array, v: Float32Array, head: _Head,
    scale: np.float32, decay: np.float32, spikes: Float32Array,
) -> None:  # fmt: skip
    """Write the spikes [T, N, C] of scale q (k^T v) over the steps at each token.

    As in the published code, [heads, T, d] is reshaped to [T, C] without a transpose: see
    `_mix_heads_and_steps` in model/network/attention.py.
    """
    steps, tokens, channels = q.shape
    products = np.empty(channels * _width(head), np.float32)  # k^T v of each head
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


@jit
def _width(head: _Head) -> int:
    """Return the channels of a head, a constant in compiled code."""
    return len(head[0]) * len(_VECTOR) + len(head[1])


@intrinsic
def _add_vector(typing: Any, target: Any, to: Any, source: Any, at: Any, vector: Any) -> Any:
    """Add to target[to:] the values source[at:] of a vector, which may have none."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if vector.count > 0:
            pointee = ir.VectorType(ir.FloatType(), vector.count)
            pointer = pointers(context, builder, signature, args)
            sums, row = pointer(0, args[1], pointee), pointer(2, args[3], pointee)
            total = builder.fadd(builder.load(sums, align=4), builder.load(row, align=4))
            builder.store(total, sums, align=4)
        return context.get_dummy_value()

    return types.void(target, types.int64, source, types.int64, vector), generate


@jit
def _add_head(target: Float32Array, to: int, source: Float32Array, at: int, head: _Head) -> None:
    """Add to target[to:] the values source[at:] of a head."""
    whole = len(head[0]) * len(_VECTOR)
    for first in range(0, whole, len(_VECTOR)):
        _add_vector(target, to + first, source, at + first, _VECTOR)
    _add_vector(target, to + whole, source, at + whole, head[1])


@jit
def _add_products(k: Float32Array, v: Float32Array, head: _Head, products: Float32Array) -> None:
    """Add k^T v of each head, of one token's k and v [C], to products [C d]."""
    width = _width(head)
    whole = len(k) - len(k) % MASK
    for first in range(0, whole, MASK):
        mask = mask_of_values(k, first)
        while mask != np.uint64(0):
            channel = int(first + np.int64(lowest_bit(mask)))
            _add_head(products, channel * width, v, channel - channel % width, head)
            mask &= mask - np.uint64(1)
    for c in range(whole, len(k)):
        if k[c] != _ZERO:
            _add_head(products, c * width, v, c - c % width, head)


@jit
def _multiply(
    q: Float32Array, products: Float32Array, head: _Head, steps: int, step: int,
    sums: Float32Array,
) -> None:  # fmt: skip
    """Add q times products [C d] of each head, of one token's q [C], to sums [heads steps d]."""
    width = _width(head)
    whole = len(q) - len(q) % MASK
    for first in range(0, whole, MASK):
        mask = mask_of_values(q, first)
        while mask != np.uint64(0):
            channel = int(first + np.int64(lowest_bit(mask)))
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
