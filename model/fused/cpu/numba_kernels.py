"""The network's inner loops for one sample on a CPU, compiled by numba (no C compiler is needed).

Layout is channels last: a sample's currents and spikes are [T, H, W, C] or [T, N, C], so that
the innermost loop runs over channels. Currents come with 1/tau and 1/threshold folded in, which
makes the neuron h = v / 2 + x, a spike where h >= 1. Each kernel touches its input once: the
membrane potential of a row stays in the first cache while the time steps go by.

All arrays are float32, and C-contiguous where nothing else is said. Compiled code is kept on disk
where that can be written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache, partial
from typing import TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Spikes = NDArray[np.float32] | NDArray[np.uint8]
_F = TypeVar("_F", bound=Callable[..., None])

log = logging.getLogger("scmrl.kernels")

_HALF = np.float32(0.5)
_ONE = np.float32(1.0)
_ZERO = np.float32(0.0)


def jit(kernel: _F) -> _F:
    """Compile it at its first call; numba refuses to where it finds no folder to keep it in."""
    compiled = partial(njit, nogil=True, boundscheck=False, error_model="numpy")
    try:
        return cast(_F, compiled(cache=True)(kernel))
    except RuntimeError as exc:
        log.warning("a compiled kernel cannot be kept (NUMBA_CACHE_DIR): %s", exc)
        return cast(_F, compiled()(kernel))


@jit
def fire(current: Floats) -> None:
    """Overwrite currents [T, ...] by their spikes."""
    steps = current.shape[0]
    currents = current.reshape(steps, -1)
    count = currents.shape[1]
    block = 1024
    v = np.empty(block, np.float32)
    for start in range(0, count, block):
        length = min(block, count - start)
        v[:] = _ZERO
        for t in range(steps):
            x = currents[t, start : start + length]
            for i in range(length):
                h = v[i] * _HALF + x[i]
                fires = h >= _ONE
                x[i] = _ONE if fires else _ZERO
                v[i] = _ZERO if fires else h


@jit
def fire_shifted(current: Floats, shift: Floats) -> None:
    """Overwrite sums [T, N, C] by the spikes of currents that are `shift` [C] greater."""
    steps, tokens, channels = current.shape
    v = np.empty(channels, np.float32)
    for n in range(tokens):
        v[:] = _ZERO
        for t in range(steps):
            x = current[t, n]
            for i in range(channels):
                h = v[i] * _HALF + (x[i] + shift[i])
                fires = h >= _ONE
                x[i] = _ONE if fires else _ZERO
                v[i] = _ZERO if fires else h


@jit
def fire_and_pool(current: Floats, pooled: Spikes) -> None:
    """Spikes of currents [T or 1, H, W, C], through max-pool 3x3 / 2: pooled [T, H', W', C], which
    may be bytes.

    The greatest of spikes is whether any fired, so rows of spikes are kept as bytes, three at a
    time, and never written to memory.
    """
    steps, _, columns_out, channels = pooled.shape
    held = current.shape[0] == 1
    rows, columns = current.shape[1], current.shape[2]
    length = columns * channels
    v = np.empty(length, np.float32)
    fired = np.zeros((steps, 3, length), np.uint8)
    across = np.empty(length, np.uint8)
    for row in range(rows):
        v[:] = _ZERO
        for t in range(steps):
            x = current[0 if held else t, row].reshape(length)
            out = fired[t, row % 3]
            for i in range(length):
                h = v[i] * _HALF + x[i]
                fires = h >= _ONE
                out[i] = fires
                v[i] = _ZERO if fires else h
        if row % 2 == 0 and row != rows - 1:
            continue
        above, here, below = (row + 1) % 3, (row + 2) % 3, row % 3
        if row % 2 == 0:  # the last row of an odd number: nothing below it
            above, here, below = (row + 2) % 3, row % 3, row % 3
        for t in range(steps):
            first = fired[t, above] if row > 1 else fired[t, here]
            second, third = fired[t, here], fired[t, below]
            for i in range(length):
                across[i] = first[i] | second[i] | third[i]
            line = pooled[t, row // 2]
            for column in range(columns_out):
                centre = 2 * column * channels
                left = max(centre - channels, 0)
                right = centre + channels if 2 * column + 1 < columns else centre
                for c in range(channels):
                    line[column, c] = across[left + c] | across[centre + c] | across[right + c]


@lru_cache
def attend_over_steps(width: int) -> Callable[[Floats, Floats, Floats, np.float32, Floats], None]:
    """The kernel for heads of `width` channels, which is a constant in its compiled loops.

    q, k, v and the last argument, its result, are [T, N, C], all but the result parts of longer
    rows: spikes of scale (q k^T) v over the steps at each token, heads and steps mixed as
    published: entry (head, step, i) of a token goes to place (head T + step) width + i of its
    [T, C].
    """

    @jit
    def attend(q: Floats, k: Floats, v: Floats, scale: np.float32, spikes: Floats) -> None:
        steps, tokens, channels = q.shape
        heads = channels // width
        current = np.empty((heads, steps, width), np.float32)
        mixed = current.reshape(steps, channels)
        potential = np.empty(channels, np.float32)
        for n in range(tokens):
            current[:] = _ZERO
            for t in range(steps):
                for s in range(steps):
                    for head in range(heads):
                        first = head * width
                        weight = _ZERO
                        for i in range(width):
                            weight += q[t, n, first + i] * k[s, n, first + i]
                        weight *= scale
                        for i in range(width):
                            current[head, t, i] += weight * v[s, n, first + i]
            potential[:] = _ZERO
            for t in range(steps):
                for c in range(channels):
                    h = potential[c] * _HALF + mixed[t, c]
                    fires = h >= _ONE
                    spikes[t, n, c] = _ONE if fires else _ZERO
                    potential[c] = _ZERO if fires else h

    return attend
