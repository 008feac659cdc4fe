"""3x3 convolutions of spikes by lookup tables: one addition for four input channels.

Four spikes have 16 patterns. A table has the sum of the weights of each pattern (as in T-MAC, which
does this for weights of a few bits, arXiv 2407.00088). A pixel's current is the sum of the rows of
the tables for the patterns in its 3x3 window: a quarter of the additions of a dense product, and no
multiplication. Tables are made where they are used, in the cache: that takes less time than to read
them from memory, as they have four times the size of the weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from torch import Tensor
from torch.nn.functional import pad

from model.arrays import Float32Array, Int64Array, UInt8Array
from model.fused.cpu.numba_kernels import fire_rows, jit
from model.fused.cpu.vectors import (
    VECTOR,
    block_vectors,
    intrinsic,
    pointers,
    rows_at_a_time,
)

#: Input channels of a table, and its rows.
_CHANNELS, _ROWS = 4, 16
#: A pass adds a row of each of several tables to a pixel's currents, which stay in registers
#: meanwhile: how many tables it may have (a window's row has a multiple of three patterns), and how
#: many vectors a row of all its tables may have (then they are 32 KiB, which the L1 cache holds).
_TABLES, _MAX_ROW = (12, 8, 6, 3), 32
#: Most vectors of a row of the tables that are kept, in the L2 cache (576 KiB).
_MAX_KEPT = 576
#: Pixels to which a pass is added before the next one: their currents (32 KiB with 64 outputs) stay
#: in the L1 or L2 cache.
_TILE = 128
#: Moves the bits of four bytes that are 0 or 1 to bits 28 to 31, the first byte lowest (numba
#: multiplies in 64 bits: bits 32 to 35 are 0).
_GATHER_BITS = np.uint32(0x10204080)
_SHIFT = np.uint32(28)


def pass_tables(channels: int, vectors: tuple[int, ...]) -> tuple[int, ...]:
    """Return how many tables a pass has, as the length of a tuple (model/fused/cpu/vectors.py).
    `vectors` is that of `block_vectors`."""
    groups = -(-channels // _CHANNELS)
    most = _MAX_ROW // len(vectors)
    return (0,) * next(n for n in _TABLES if n <= most and 3 * groups % n == 0)


def by_pass(weight: Tensor) -> Float32Array:
    """Return weights [C', C, 3, 3], C' a multiple of 16, by blocks of `width` outputs, rows of the
    window, passes, tables and channels of a table, [C' / width, 3, passes, tables, 4, width].

    A row of the window is three pixels' channels, one after the other.
    """
    out, channels = weight.shape[:2]
    vectors = block_vectors(out)
    tables = len(pass_tables(channels, vectors))
    missing = -channels % _CHANNELS
    by_pixel = pad(weight.permute(0, 2, 3, 1), (0, missing))  # [C', 3, 3, C]
    rows = by_pixel.flatten(2).unflatten(2, (-1, tables, _CHANNELS))
    blocks = rows.unflatten(0, (-1, len(vectors) * VECTOR))
    by_table: Float32Array = blocks.permute(0, 2, 3, 4, 5, 1).contiguous().numpy()
    return by_table


@jit
def _pack(spikes: UInt8Array, patterns: UInt8Array) -> None:
    """Write the patterns of spikes [T, H, W, C], four channels each, into patterns [T, H + 2,
    W + 2, C / 4 rounded up], whose border stays zero."""
    steps, height, width, channels = spikes.shape
    groups = patterns.shape[3]
    for t in range(steps):
        for y in range(height):
            target = patterns[t, y + 1].reshape(-1)[groups : (width + 1) * groups]
            if channels % _CHANNELS == 0:
                words = spikes[t, y].reshape(-1).view(np.uint32)
                for i in range(len(words)):
                    target[i] = (words[i] * _GATHER_BITS) >> _SHIFT
            else:
                for x in range(width):
                    for c in range(channels):
                        target[x * groups + c // _CHANNELS] |= spikes[t, y, x, c] << c % _CHANNELS


@intrinsic
def _make_table(
    typing: Any, tables: Any, to: Any, weights: Any, at: Any, vectors: Any
) -> Any:  # fmt: skip
    """Write into tables[to:] the 16 sums of the four rows weights[at:]; both are flat float32."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        width, i64 = vectors.count * VECTOR, ir.IntType(64)
        vector = ir.VectorType(ir.FloatType(), width)

        pointer = pointers(context, builder, signature, args)
        _, to, _, at, _ = args

        def row(argument: int, first: Any, number: int) -> Any:
            element = builder.add(first, ir.Constant(i64, number * width))
            return pointer(argument, element, vector)

        rows = [builder.load(row(2, at, k), align=4) for k in range(_CHANNELS)]
        sums = [ir.Constant(vector, [0.0] * width)]
        for pattern in range(1, _ROWS):
            last = pattern.bit_length() - 1
            rest = pattern - 2**last
            sums.append(builder.fadd(sums[rest], rows[last]) if rest else rows[last])
        for pattern, total in enumerate(sums):
            builder.store(total, row(0, to, pattern), align=4)
        return context.get_dummy_value()

    return types.void(tables, types.int64, weights, types.int64, vectors), generate


@intrinsic
def _add_pass(
    typing: Any, target: Any, to: Any, source: Any, at: Any, tables: Any, first_table: Any,
    patterns: Any, first_pattern: Any, vectors: Any, pass_tables: Any,
) -> Any:  # fmt: skip
    """Write into target[to:] the sums source[at:] plus a row of each table of a pass,
    tables[first_table:]: the rows which the bytes patterns[first_pattern:] name, read by eight."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        width, i64 = vectors.count * VECTOR, ir.IntType(64)
        vector = ir.VectorType(ir.FloatType(), width)

        pointer = pointers(context, builder, signature, args)
        _, to, _, at, _, first_table, _, first_pattern, *_ = args
        total = builder.load(pointer(2, at, vector), align=4)
        for k in range(pass_tables.count):
            if k % 8 == 0:
                element = builder.add(first_pattern, ir.Constant(i64, k))
                word = builder.load(pointer(6, element, i64), align=1)
            shifted = builder.lshr(word, ir.Constant(i64, k % 8 * 8))
            row = builder.and_(shifted, ir.Constant(i64, _ROWS - 1))
            element = builder.add(
                builder.add(first_table, ir.Constant(i64, k * _ROWS * width)),
                builder.mul(row, ir.Constant(i64, width)),
            )
            total = builder.fadd(total, builder.load(pointer(4, element, vector), align=4))
        builder.store(total, pointer(0, to, vector), align=4)
        return context.get_dummy_value()

    signature = types.void(
        target, types.int64, source, types.int64, tables, types.int64, patterns, types.int64,
        vectors, pass_tables,
    )  # fmt: skip
    return signature, generate


@jit
def _list_windows(
    steps: int, rows: int, height: int, columns: int, groups: int, windows: Int64Array
) -> None:
    """Write into windows [T rows W] the first pattern of the window of each pixel of the first
    `rows` rows, at all steps."""
    pixel = 0
    for t in range(steps):
        for y in range(rows):
            line = (t * (height + 2) + y) * (columns + 2) * groups
            for x in range(columns):
                windows[pixel] = line + x * groups
                pixel += 1


@jit
def _make_tables(
    weights: Float32Array, first: int, count: int, vectors: tuple[int, ...], tables: Float32Array
) -> None:
    """Write `count` tables, the first of them from the weights of table `first` on."""
    width = len(vectors) * VECTOR
    for table in range(count):
        at = (first + table) * _CHANNELS * width
        _make_table(tables, table * _ROWS * width, weights, at, vectors)


@jit
def _add_passes(
    tables: Float32Array, patterns: UInt8Array, windows: Int64Array, offsets: Int64Array,
    bias: Float32Array, vectors: tuple[int, ...], pass_tables: tuple[int, ...],
    currents: Float32Array,
) -> None:  # fmt: skip
    """Add to the currents [pixels width] one pass for each of `offsets`. Pass i has its own tables;
    the patterns that select their rows start at windows[pixel] + offsets[i].

    The currents are first set to the bias [width], unless that is empty.
    """
    width = len(vectors) * VECTOR
    size = len(pass_tables) * _ROWS * width  # of the tables of a pass
    for start in range(0, len(windows), _TILE):
        stop = min(start + _TILE, len(windows))
        for index in range(len(offsets)):
            if index == 0 and len(bias) > 0:
                for p in range(start, stop):
                    _add_pass(
                        currents, p * width, bias, 0, tables, 0,
                        patterns, windows[p] + offsets[0], vectors, pass_tables,
                    )  # fmt: skip
                continue
            for p in range(start, stop):
                _add_pass(
                    currents, p * width, currents, p * width, tables, index * size,
                    patterns, windows[p] + offsets[index], vectors, pass_tables,
                )  # fmt: skip


@jit
def fire_convolution(
    spikes: UInt8Array, weights: Float32Array, bias: Float32Array, vectors: tuple[int, ...],
    pass_tables: tuple[int, ...], decay: np.float32, pooled: bool, fired: UInt8Array,
) -> None:  # fmt: skip
    """Write the spikes of the 3x3 convolution with padding 1 of spikes [T, H, W, C], bytes 0 or 1,
    into bytes [T, H, W, C'], or `pooled` as by `fire_rows`.

    Weights are those of `by_pass`, bias is [C'], `vectors` that of `block_vectors`. Currents exist
    for a block of outputs: for a few rows at a time, or for all where the tables of the block do
    not fit the L2 cache together.
    """
    steps, height, columns, channels = spikes.shape
    blocks, _, passes, per_pass, _, width = weights.shape
    groups = (channels + _CHANNELS - 1) // _CHANNELS
    line = (columns + 2) * groups
    patterns = np.zeros(steps * (height + 2) * line + 8, np.uint8)  # as eight are read
    _pack(spikes, patterns[:-8].reshape(steps, height + 2, columns + 2, groups))
    total = 3 * passes
    offsets = np.empty(total, np.int64)
    for index in range(total):
        offsets[index] = index // passes * line + index % passes * per_pass
    kept = min(total, max(1, _MAX_KEPT * VECTOR // (per_pass * width)))  # passes
    # Each table is made once. Where not all are kept, a part is used for all pixels before the next
    # one overwrites it.
    rows = rows_at_a_time(steps, columns, height) if total == kept else height
    windows = np.empty(steps * rows * columns, np.int64)
    flat = weights.reshape(-1)
    size = kept * per_pass * _ROWS * width
    scratch = np.empty(size + len(windows) * width + 16, np.float32)
    tables = scratch[-(scratch.ctypes.data // 4) % 16 :]  # vectors do not cross cache lines
    currents = tables[size:]
    recent = np.empty((steps, 3, columns * width), np.uint8)
    for block in range(blocks):
        column = block * width
        for y in range(0, height, rows):
            count = min(rows, height - y)
            pixels = steps * count * columns
            if y == 0 or count < rows:
                _list_windows(steps, count, height, columns, groups, windows)
            for begin in range(0, total, kept):
                end = min(total, begin + kept)
                if y == 0:
                    first = (block * total + begin) * per_pass
                    _make_tables(flat, first, (end - begin) * per_pass, vectors, tables)
                _add_passes(
                    tables, patterns[y * line :], windows[:pixels], offsets[begin:end],
                    bias[column : column + width] if begin == 0 else bias[:0],
                    vectors, pass_tables, currents,
                )  # fmt: skip
            band = currents[: pixels * width].reshape(steps, count, columns, width)
            fire_rows(band, decay, y, height, column, pooled, recent, fired)
