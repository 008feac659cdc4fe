"""Convolutions and linear maps that skip zeros.

Most neurons are silent at a time step, and a product with zero need not be computed: the rows of
the weights that belong to spikes are summed, and no others. The time grows with the number of
spikes: for the few that trained networks fire it is a fraction of a dense product's, and beyond
MAX_LINEAR_DENSITY and `max_conv_density` it is more (docs/performance.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from torch import Tensor

from model.arrays import Float32Array, Int32Array, Int64Array, UInt8Array
from model.fused.cpu.numba_kernels import fire_rows, jit
from model.fused.cpu.vectors import (
    MASK,
    VECTOR,
    intrinsic,
    lowest_bit,
    mask_of_values,
    pointers,
    rows_at_a_time,
)

#: Greatest share of values that are not zero at which `fire_linear` is faster than a dense product.
MAX_LINEAR_DENSITY = 0.15
#: Greatest share of spikes at which a convolution is faster that skips zeros than one that looks up
#: sums, with 64 channels or more.
_MAX_CONV_DENSITY = 0.16
#: The same for each channel, with fewer: listing the spikes is a larger part of the time.
_DENSITY_PER_CHANNEL = 1 / 400
#: With fewer channels skipping is never faster.
_MIN_CHANNELS = 24

#: Moves the bits of eight bytes that are 0 or 1 to the upper eight of 64, the first byte lowest.
_GATHER_BITS = np.uint64(0x0102040810204080)

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


def max_conv_density(channels: int) -> float:
    """Return the share of spikes up to which `fire_convolution` is used, for input of so many
    channels."""
    if channels < _MIN_CHANNELS:
        return 0.0
    return min(_MAX_CONV_DENSITY, channels * _DENSITY_PER_CHANNEL)


def by_spike(weight: Tensor) -> Float32Array:
    """Return weights [C', C, 3, 3] as a row of C' for each tap and input channel, [9 C, C']."""
    rows: Float32Array = weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous().numpy()
    return rows


@jit
def is_sparse(values: Float32Array | UInt8Array, max_density: float) -> bool:
    """Return whether at most the share `max_density` of contiguous values is not zero."""
    flat = values.reshape(-1)
    count = 0
    for i in range(len(flat)):
        count += flat[i] != 0
    return count <= max_density * len(flat)


@intrinsic
def _add_rows(
    typing: Any, sums: Any, to: Any, weights: Any, stride: Any, at: Any, indices: Any, start: Any,
    stop: Any, vectors: Any,
) -> Any:  # fmt: skip
    """Add to sums[to:] the vectors weights[at + stride * index:] of all indices[start:stop]."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        i64 = ir.IntType(64)
        vector = ir.VectorType(ir.FloatType(), vectors.count * VECTOR)

        pointer = pointers(context, builder, signature, args)
        _, to, _, stride, at, _, start, stop, _ = args
        target = pointer(0, to, vector)
        before = builder.load(target, align=4)
        entry = builder.basic_block
        body = builder.append_basic_block("rows")
        end = builder.append_basic_block("rows.end")
        builder.cbranch(builder.icmp_signed("<", start, stop), body, end)
        builder.position_at_end(body)
        k, total = builder.phi(i64), builder.phi(vector)
        k.add_incoming(start, entry)
        total.add_incoming(before, entry)
        index = builder.sext(builder.load(pointer(5, k, ir.IntType(32))), i64)
        element = builder.add(at, builder.mul(stride, index))
        added = builder.fadd(total, builder.load(pointer(2, element, vector), align=4))
        following = builder.add(k, ir.Constant(i64, 1))
        k.add_incoming(following, body)
        total.add_incoming(added, body)
        builder.cbranch(builder.icmp_signed("<", following, stop), body, end)
        builder.position_at_end(end)
        result = builder.phi(vector)
        result.add_incoming(before, entry)
        result.add_incoming(added, body)
        builder.store(result, target, align=4)
        return context.get_dummy_value()

    signature = types.void(
        sums, types.int64, weights, types.int64, types.int64, indices, types.int64, types.int64,
        vectors,
    )  # fmt: skip
    return signature, generate


@jit
def _list_spikes(spikes: UInt8Array, indices: Int32Array, starts: Int32Array) -> None:
    """List the spikes [T, H, W, C] of each line: x C + c into indices [T, H, W C], and where those
    of each pixel start into starts [T, H, W + 1]."""
    steps, height, width, channels = spikes.shape
    for t in range(steps):
        for y in range(height):
            count = 0
            line = spikes[t, y].reshape(-1)
            out = indices[t, y]
            if channels % 8:
                for x in range(width):
                    starts[t, y, x] = count
                    for i in range(x * channels, (x + 1) * channels):
                        out[count] = i
                        count += line[i]
            else:
                words = line.view(np.uint64)
                per_pixel = channels // 8
                for x in range(width):
                    starts[t, y, x] = count
                    for first in range(x * per_pixel, (x + 1) * per_pixel, 8):
                        mask = np.uint64(0)  # the spikes of up to 64 channels
                        for k in range(first, min(first + 8, (x + 1) * per_pixel)):
                            bits = (words[k] * _GATHER_BITS) >> np.uint64(56)
                            mask |= bits << np.uint64(8 * (k - first))
                        while mask != np.uint64(0):
                            out[count] = 8 * first + np.int64(lowest_bit(mask))
                            count += 1
                            mask &= mask - np.uint64(1)
            starts[t, y, width] = count


@jit
def fire_convolution(
    spikes: UInt8Array, weights: Float32Array, bias: Float32Array, vectors: tuple[int, ...],
    decay: np.float32, pooled: bool, fired: UInt8Array,
) -> None:  # fmt: skip
    """Write the spikes of the 3x3 convolution with padding 1 of spikes [T, H, W, C], bytes 0 or 1,
    into bytes [T, H, W, C'], or `pooled` as by `fire_rows`.

    Weights are those of `by_spike`, bias is [C'], `vectors` that of `block_vectors`.
    """
    steps, height, width, channels = spikes.shape
    indices = np.empty((steps, height, width * channels), np.int32)
    starts = np.empty((steps, height, width + 1), np.int32)
    _list_spikes(spikes, indices, starts)
    out = weights.shape[1]
    flat = weights.reshape(-1)
    flat_indices = indices.reshape(-1)
    count = rows_at_a_time(steps, width, height)
    sums = np.empty(steps * count * width * out, np.float32)
    recent = np.empty((steps, 3, width * out), np.uint8)
    block = len(vectors) * VECTOR
    column = int(np.int64(0))  # no literal, for which numba would compile `fire_rows` anew
    for first in range(0, height, count):
        number_of_rows = min(count, height - first)
        size = steps * number_of_rows * width * out
        currents = sums[:size].reshape(steps, number_of_rows, width, out)
        for t in range(steps):
            for y in range(first, first + number_of_rows):
                for x in range(width):
                    currents[t, y - first, x] = bias
                    to = ((t * number_of_rows + y - first) * width + x) * out
                    for dy in range(max(0, 1 - y), min(3, height + 1 - y)):
                        line = y + dy - 1
                        at = (t * height + line) * width * channels
                        start = at + starts[t, line, max(0, x - 1)]
                        stop = at + starts[t, line, min(width, x + 2)]
                        # The row of the weights that belongs to index 0 of this line.
                        row = (3 * dy - (x - 1)) * channels
                        for output in range(0, out, block):
                            _add_rows(
                                sums, to + output, flat, out, row * out + output,
                                flat_indices, start, stop, vectors,
                            )  # fmt: skip
        fire_rows(currents, decay, first, height, column, pooled, recent, fired)


@jit
def _list_values(
    values: Float32Array, first: int, last: int, indices: Int64Array, factors: Float32Array
) -> int:
    """List the values [n] from `first` up to `last` that are not zero: where they are, from `first`
    on, and the values themselves. Return their number."""
    count = 0
    at = first
    while at + MASK <= last:
        mask = mask_of_values(values, at)
        while mask != np.uint64(0):
            place = at + np.int64(lowest_bit(mask))
            indices[count] = place - first
            factors[count] = values[place]
            count += 1
            mask &= mask - np.uint64(1)
        at += MASK
    for index in range(at, last):
        indices[count] = index - first
        factors[count] = values[index]
        count += values[index] != _ZERO
    return count


@jit
def fire_linear(
    values: Float32Array, max_density: float, weights: Float32Array, bias: Float32Array,
    decay: np.float32, spikes: Float32Array,
) -> bool:  # fmt: skip
    """Write the spikes [T, N, C'] of the currents values [T, N, C] times weights [C, C'], plus the
    bias [C'], if at most `max_density` of the values are not zero. Return False, with nothing
    written, if more are."""
    if not is_sparse(values, max_density):
        return False
    steps, tokens, channels = values.shape
    out = spikes.shape[2]
    # and up to three zeros, so that 4 divides their number
    indices = np.empty(channels + 3, np.int64)
    factors = np.empty(channels + 3, np.float32)
    flat = values.reshape(-1)
    current = np.empty(out, np.float32)
    v = np.empty(out, np.float32)
    for n in range(tokens):
        v[:] = _ZERO
        for t in range(steps):
            first = (t * tokens + n) * channels
            count = _list_values(flat, first, first + channels, indices, factors)
            for k in range(count, count + 3):
                indices[k], factors[k] = 0, _ZERO
            current[:] = bias
            for k in range(0, count, 4):
                a, b, c, d = indices[k], indices[k + 1], indices[k + 2], indices[k + 3]
                p, q, r, s = factors[k], factors[k + 1], factors[k + 2], factors[k + 3]
                for j in range(out):
                    current[j] += (p * weights[a, j] + q * weights[b, j]) + (
                        r * weights[c, j] + s * weights[d, j]
                    )
            for j in range(out):
                h = v[j] * decay + current[j]
                spike = h >= _ONE
                spikes[t, n, j] = _ONE if spike else _ZERO
                v[j] = _ZERO if spike else h
    return True
