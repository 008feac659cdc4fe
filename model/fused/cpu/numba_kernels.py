"""Neurons and pooling of one sample on a CPU, and `jit`, by which numba compiles the kernels of
this folder (no C compiler is needed).

Layout is channels last: a sample's currents and spikes are [T, H, W, C] or [T, N, C], so that
the innermost loop runs over channels. 1/tau and 1/threshold are folded into currents, which makes
the neuron h = decay v + x, a spike where h >= 1. Each kernel reads its input once: the membrane
potential of a row stays in the L1 cache over all time steps.

All arrays are float32 and C-contiguous, unless stated otherwise. Compiled code is cached on disk
where possible, until a file of this folder changes: so `decay`, which comes from
model/network/neuron.py, is an argument and no constant.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
from numba import njit

from model.arrays import Float32Array, UInt8Array, UInt64Array

_F = TypeVar("_F", bound=Callable[..., object])

log = logging.getLogger("scmrl.kernels")

_ONE = np.float32(1.0)
_ZERO = np.float32(0.0)


def jit(kernel: _F) -> _F:
    """Compile a kernel at its first call, without a cache where numba finds no folder for one.

    A kernel may call those of other files of its folder: it is compiled anew when any of them has
    changed, not only its own.
    """
    compiled = partial(njit, nogil=True, boundscheck=False, error_model="numpy")
    try:
        cached = compiled(cache=True)(kernel)
    except RuntimeError as exc:
        log.warning("a compiled kernel cannot be cached (NUMBA_CACHE_DIR): %s", exc)
        return cast(_F, compiled()(kernel))
    # numba has no public way to say this. In a version that lacks these attributes an edit of
    # another file does not cause a new compilation.
    cache_file = getattr(getattr(cached, "_cache", None), "_cache_file", None)
    if cache_file is not None:
        cache_file._source_stamp = _digest(Path(kernel.__code__.co_filename).parent)
    return cast(_F, cached)


@lru_cache
def _digest(folder: Path) -> str:
    """Return a digest of the Python files in a folder."""
    digest = sha256()
    for file in sorted(folder.glob("*.py")):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


@jit
def fire(current: Float32Array, decay: np.float32) -> None:
    """Overwrite currents [T, ...] by their spikes, in blocks of neurons that fit the L1 cache."""
    steps = current.shape[0]
    currents = current.reshape(steps, -1)  # [T, neurons]
    count = currents.shape[1]
    block = 1024
    v = np.empty(block, np.float32)
    for start in range(0, count, block):
        length = min(block, count - start)
        v[:] = _ZERO
        for t in range(steps):
            x = currents[t, start : start + length]
            for i in range(length):
                h = v[i] * decay + x[i]
                spike = h >= _ONE
                x[i] = _ONE if spike else _ZERO
                v[i] = _ZERO if spike else h


@jit
def _pool_row(
    row: UInt8Array | UInt64Array, columns: int, pooled: UInt8Array | UInt64Array,
    pooled_columns: int, first: int,
) -> None:  # fmt: skip
    """Write into pooled [W' C'], from channel `first` on, whether each channel of a row [W C] has a
    spike in a window of three columns, at every other one.

    Elements are channels, or words of eight channels: then C, C' and `first` count words.
    """
    channels, length = len(row) // columns, len(pooled) // pooled_columns
    for x in range(pooled_columns):
        centre = 2 * x * channels
        left = max(centre - channels, 0)
        right = centre + channels if 2 * x + 1 < columns else centre
        target = x * length + first
        for c in range(channels):
            pooled[target + c] = row[left + c] | row[centre + c] | row[right + c]


@jit
def fire_rows(
    current: Float32Array, decay: np.float32, first: int, height: int, column: int, pooled: bool,
    recent: UInt8Array, fired: UInt8Array,
) -> None:  # fmt: skip
    """Write the spikes of currents [T or 1, rows, W, C], the rows from `first` on of `height` rows,
    into the channels of `fired` from `column` on.

    `fired` is [T, H, W, ...], or [T, H', W', ...] if they are `pooled` (3x3, stride 2, padding 1):
    the maximum of spikes is their "or". `recent` [T, 3, W C] has the last three rows of spikes,
    those of row y at y % 3, from call to call.
    """
    steps = fired.shape[0]
    held, rows, columns, channels = current.shape
    is_constant = held == 1  # one frame, the same current at each step
    length = columns * channels
    v = np.empty(length, np.float32)
    any_of_three = np.empty(length, np.uint8)  # whether a pixel or its vertical neighbours fired
    for row in range(first, first + rows):
        v[:] = _ZERO
        for t in range(steps):
            x = current[0 if is_constant else t, row - first].reshape(length)
            out = recent[t, row % 3]
            for i in range(length):
                h = v[i] * decay + x[i]
                spike = h >= _ONE
                out[i] = spike
                v[i] = _ZERO if spike else h
        if not pooled:
            for t in range(steps):
                spikes = recent[t, row % 3].reshape(columns, channels)
                fired[t, row, :, column : column + channels] = spikes
            continue
        if row % 2 == 0 and row != height - 1:
            continue  # the window's last row is the next one
        above, centre_row, below = (row + 1) % 3, (row + 2) % 3, row % 3
        if row % 2 == 0:  # the last of an odd number of rows has none below
            above, centre_row, below = (row + 2) % 3, row % 3, row % 3
        for t in range(steps):
            upper = recent[t, above] if row > 1 else recent[t, centre_row]
            middle, lower = recent[t, centre_row], recent[t, below]
            for i in range(length):
                any_of_three[i] = upper[i] | middle[i] | lower[i]
            line = fired[t, row // 2].reshape(-1)
            if channels % 8 == 0 and fired.shape[3] % 8 == 0:
                _pool_row(
                    any_of_three.view(np.uint64), columns, line.view(np.uint64),
                    fired.shape[2], column // 8,
                )  # fmt: skip
            else:
                _pool_row(any_of_three, columns, line, fired.shape[2], column)


@jit
def fire_all(current: Float32Array, decay: np.float32, pooled: bool, fired: UInt8Array) -> None:
    """Write the spikes of currents [T or 1, H, W, C], as `fire_rows` does, into `fired`."""
    _, height, width, channels = current.shape
    recent = np.empty((fired.shape[0], 3, width * channels), np.uint8)
    start = int(np.int64(0))  # no literal, for which numba would compile `fire_rows` anew
    fire_rows(current, decay, start, height, start, pooled, recent, fired)
