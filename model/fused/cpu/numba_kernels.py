"""Inner loops of the network for one sample on a CPU, compiled by numba (no C compiler is needed).

Layout is channels last: a sample's currents and spikes are [T, H, W, C] or [T, N, C], so that
the innermost loop runs over channels. 1/tau and 1/threshold are folded into currents, which makes
the neuron h = decay v + x, a spike where h >= 1. Each kernel reads its input once: the membrane
potential of a row stays in the L1 cache over all time steps.

All arrays are float32 and C-contiguous, unless stated otherwise. Compiled code is cached on disk
where possible, until this file changes: so `decay`, which comes from model/network/neuron.py, is an
argument and no constant.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache, partial
from typing import TypeVar, cast

import numpy as np
from numba import njit

from model.arrays import Float32Array, UInt8Array

#: A kernel of q, k, v, scale, decay and the spikes it writes.
Attend = Callable[
    [Float32Array, Float32Array, Float32Array, np.float32, np.float32, Float32Array], None
]
_F = TypeVar("_F", bound=Callable[..., None])

log = logging.getLogger("scmrl.kernels")

_ONE = np.float32(1.0)
_ZERO = np.float32(0.0)


def jit(kernel: _F) -> _F:
    """Compile a kernel at its first call, without a cache where numba finds no folder for one."""
    compiled = partial(njit, nogil=True, boundscheck=False, error_model="numpy")
    try:
        return cast(_F, compiled(cache=True)(kernel))
    except RuntimeError as exc:
        log.warning("a compiled kernel cannot be cached (NUMBA_CACHE_DIR): %s", exc)
        return cast(_F, compiled()(kernel))


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
def fire_shifted(current: Float32Array, shift: Float32Array, decay: np.float32) -> None:
    """Overwrite weighted sums [T, N, C], to which `shift` (bias, [C]) is added, by their spikes."""
    steps, tokens, channels = current.shape
    v = np.empty(channels, np.float32)
    for n in range(tokens):
        v[:] = _ZERO
        for t in range(steps):
            x = current[t, n]
            for i in range(channels):
                h = v[i] * decay + (x[i] + shift[i])
                spike = h >= _ONE
                x[i] = _ONE if spike else _ZERO
                v[i] = _ZERO if spike else h


@jit
def fire_and_pool(
    current: Float32Array, decay: np.float32, pooled: Float32Array | UInt8Array
) -> None:
    """Write the spikes of currents [T or 1, H, W, C], max-pooled (3x3, stride 2, padding 1), into
    pooled [T, H', W', C], which may be bytes.

    The maximum of spikes is their "or". Only three rows of spikes exist at a time, as bytes.
    """
    steps, _, pooled_columns, channels = pooled.shape
    is_constant = current.shape[0] == 1  # one frame, the same current at each step
    rows, columns = current.shape[1], current.shape[2]
    length = columns * channels
    v = np.empty(length, np.float32)
    spikes = np.zeros((steps, 3, length), np.uint8)  # row y is at y % 3
    any_of_three = np.empty(length, np.uint8)  # whether a pixel or its vertical neighbours fired
    for row in range(rows):
        v[:] = _ZERO
        for t in range(steps):
            x = current[0 if is_constant else t, row].reshape(length)
            out = spikes[t, row % 3]
            for i in range(length):
                h = v[i] * decay + x[i]
                spike = h >= _ONE
                out[i] = spike
                v[i] = _ZERO if spike else h
        if row % 2 == 0 and row != rows - 1:
            continue  # the window's last row is the next one
        above, centre_row, below = (row + 1) % 3, (row + 2) % 3, row % 3
        if row % 2 == 0:  # the last of an odd number of rows has none below
            above, centre_row, below = (row + 2) % 3, row % 3, row % 3
        for t in range(steps):
            first = spikes[t, above] if row > 1 else spikes[t, centre_row]
            second, third = spikes[t, centre_row], spikes[t, below]
            for i in range(length):
                any_of_three[i] = first[i] | second[i] | third[i]
            line = pooled[t, row // 2]
            for column in range(pooled_columns):
                centre = 2 * column * channels
                left = max(centre - channels, 0)
                right = centre + channels if 2 * column + 1 < columns else centre
                for c in range(channels):
                    line[column, c] = (
                        any_of_three[left + c] | any_of_three[centre + c] | any_of_three[right + c]
                    )


@lru_cache
def attend_over_steps(width: int) -> Attend:
    """Return the kernel for heads of `width` channels, a constant in its compiled loops.

    It takes q, k, v [T, N, C] (slices of longer rows), scale and decay, and writes spikes
    [T, N, C] of scale (q k^T) v over the steps at each token. As in the published code,
    [heads, T, d] is reshaped to [T, C] without a transpose: see `_mix_heads_and_steps` in
    model/network/attention.py.
    """

    @jit
    def attend(
        q: Float32Array, k: Float32Array, v: Float32Array,
        scale: np.float32, decay: np.float32, spikes: Float32Array,
    ) -> None:  # fmt: skip
        steps, tokens, channels = q.shape
        heads = channels // width
        current = np.empty((heads, steps, width), np.float32)
        mixed = current.reshape(steps, channels)  # the same memory
        potential = np.empty(channels, np.float32)
        for n in range(tokens):
            current[:] = _ZERO
            for t in range(steps):
                for head in range(heads):
                    first = head * width
                    queries = _ZERO
                    for i in range(width):
                        queries += q[t, n, first + i]
                    if queries == _ZERO:  # most heads are silent at a step
                        continue
                    for s in range(steps):
                        weight = _ZERO
                        for i in range(width):
                            weight += q[t, n, first + i] * k[s, n, first + i]
                        weight *= scale
                        for i in range(width):
                            current[head, t, i] += weight * v[s, n, first + i]
            potential[:] = _ZERO
            for t in range(steps):
                for c in range(channels):
                    h = potential[c] * decay + mixed[t, c]
                    spike = h >= _ONE
                    spikes[t, n, c] = _ONE if spike else _ZERO
                    potential[c] = _ZERO if spike else h

    return attend


@lru_cache
def attend_over_tokens(width: int) -> Attend:
    """Return the kernel for heads of `width` channels, a constant in its compiled loops.

    It takes q [T, N, C], k and v [T, N_source, C] (slices of longer rows), scale and decay, and
    writes spikes [T, N, C] of scale q (k^T v) over the tokens at each step: the same integers as
    (q k^T) v, with less work.
    """

    @jit
    def attend(
        q: Float32Array, k: Float32Array, v: Float32Array,
        scale: np.float32, decay: np.float32, spikes: Float32Array,
    ) -> None:  # fmt: skip
        steps, tokens, channels = q.shape
        products = np.zeros((steps, channels, width), np.float32)  # k^T v of each head
        row = np.empty(channels, np.float32)  # contiguous, which a slice is not
        for t in range(steps):
            for n in range(k.shape[1]):
                for c in range(channels):
                    row[c] = v[t, n, c]
                for c in range(channels):
                    if k[t, n, c] != _ZERO:
                        first = c - c % width  # of the channel's head
                        for i in range(width):
                            products[t, c, i] += row[first + i]
        potential = np.empty(channels, np.float32)
        for n in range(tokens):
            potential[:] = _ZERO
            for t in range(steps):
                row[:] = _ZERO
                for c in range(channels):
                    if q[t, n, c] != _ZERO:
                        first = c - c % width
                        for i in range(width):
                            row[first + i] += products[t, c, i]
                for c in range(channels):
                    h = potential[c] * decay + row[c] * scale
                    spike = h >= _ONE
                    spikes[t, n, c] = _ONE if spike else _ZERO
                    potential[c] = _ZERO if spike else h

    return attend
