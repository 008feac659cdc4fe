"""Convolutions and linear maps that skip zeros.

Most neurons are silent at a time step, and a product with zero need not be computed: the rows of
the weights that belong to spikes are summed, and no others. The time grows with the number of
spikes: for the few that trained networks fire it is a fraction of a dense product's, and beyond
MAX_LINEAR_DENSITY and `max_conv_density` it is more (docs/performance.md).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from model.arrays import Float32Array, Int32Array, Int64Array
from model.fused.cpu.int8_kernels import Map
from model.fused.cpu.numba_kernels import jit

#: Greatest share of values that are not zero at which `fire_linear` is faster than a dense product.
MAX_LINEAR_DENSITY = 0.3
#: Greatest share of spikes at which `conv3x3` is faster than a dense convolution: that for many
#: channels, and that for each channel where there are few, since finding the spikes takes longer.
_MAX_CONV_DENSITY, _DENSITY_PER_CHANNEL = 0.2, 1 / 300
#: Rows of weights that are added in one pass over the currents.
_ROWS = 8

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)


def max_conv_density(channels: int) -> float:
    """Return the share of spikes up to which `conv3x3` is used for input of so many channels."""
    return min(_MAX_CONV_DENSITY, channels * _DENSITY_PER_CHANNEL)


def density(values: Tensor) -> float:
    """Return the share of contiguous values that are not zero, 0 to 1."""
    count = np.zeros(1, np.int64)
    count_nonzero(values.numpy().reshape(-1), count)
    return int(count[0]) / values.numel()


def conv3x3(weight: Tensor, bias: Tensor) -> Map:
    """Return a 3x3 convolution with padding 1 of spikes (0 or 1): [T, C, H, W], channels last, to
    [T, C', H, W]."""
    out = len(weight)
    # A row of C' weights for each tap and input channel, and one of zeros.
    rows = torch.cat([weight.detach().permute(2, 3, 1, 0).flatten(0, 2), torch.zeros(1, out)])
    weights, shift = rows.numpy(), bias.detach().numpy()

    def current(x: Tensor) -> Tensor:
        steps, channels, height, width = x.shape
        spikes = x.permute(0, 2, 3, 1).numpy()  # [T, H, W, C]
        indices = np.empty((steps, height, width * channels + 1), np.int32)
        starts = np.empty((steps, height, width + 1), np.int32)
        list_spikes(spikes, indices, starts)
        currents = np.empty((steps, height, width, out), np.float32)
        add_weights(indices, starts, weights, shift, currents)
        return torch.from_numpy(currents).permute(0, 3, 1, 2)

    return current


@jit
def count_nonzero(values: Float32Array, count: Int64Array) -> None:
    """Write how many of the values [n] are not zero into count [1]."""
    total = 0
    for i in range(len(values)):
        total += values[i] != _ZERO
    count[0] = total


@jit
def list_spikes(spikes: Float32Array, indices: Int32Array, starts: Int32Array) -> None:
    """List the spikes [T, H, W, C] of each line: x C + c into indices [T, H, W C + 1], and where
    those of each pixel start into starts [T, H, W + 1]."""
    steps, height, width, channels = spikes.shape
    for t in range(steps):
        for y in range(height):
            count = 0
            for x in range(width):
                starts[t, y, x] = count
                first = x * channels
                for c in range(channels):  # without a branch, which would be mispredicted
                    indices[t, y, count] = first + c
                    count += spikes[t, y, x, c] != _ZERO
            starts[t, y, width] = count


@jit
def add_weights(
    indices: Int32Array, starts: Int32Array, weights: Float32Array, bias: Float32Array,
    currents: Float32Array,
) -> None:  # fmt: skip
    """Write into currents [T, H, W, C'] the bias [C'] and the sum of the rows of the weights
    [9 C + 1, C'] that belong to the spikes around each pixel, which `list_spikes` listed."""
    steps, height, width, out = currents.shape
    zeros = len(weights) - 1  # the row of zeros
    channels = zeros // 9
    rows = np.empty(zeros + _ROWS, np.int64)
    for t in range(steps):
        for y in range(height):
            for x in range(width):
                count = 0
                for dy in range(max(0, 1 - y), min(3, height + 1 - y)):
                    line = y + dy - 1
                    first = starts[t, line, max(0, x - 1)]
                    spikes = starts[t, line, min(width, x + 2)] - first
                    offset = (3 * dy - (x - 1)) * channels
                    for k in range(spikes):
                        rows[count + k] = indices[t, line, first + k] + offset
                    count += spikes
                for k in range(count, count + _ROWS - 1):
                    rows[k] = zeros
                for j in range(out):
                    currents[t, y, x, j] = bias[j]
                for k in range(0, count, _ROWS):
                    a, b, c, d = rows[k], rows[k + 1], rows[k + 2], rows[k + 3]
                    e, f, g, h = rows[k + 4], rows[k + 5], rows[k + 6], rows[k + 7]
                    for j in range(out):
                        currents[t, y, x, j] += (
                            (weights[a, j] + weights[b, j]) + (weights[c, j] + weights[d, j])
                        ) + ((weights[e, j] + weights[f, j]) + (weights[g, j] + weights[h, j]))


@jit
def fire_linear(
    values: Float32Array, weights: Float32Array, bias: Float32Array, decay: np.float32,
    spikes: Float32Array,
) -> None:  # fmt: skip
    """Write the spikes [T, N, C'] of the currents values [T, N, C] times weights [C, C'], plus
    the bias [C']."""
    steps, tokens, channels = values.shape
    out = spikes.shape[2]
    indices = np.empty(channels + 4, np.int64)
    factors = np.empty(channels + 4, np.float32)
    current = np.empty(out, np.float32)
    v = np.empty(out, np.float32)
    for n in range(tokens):
        v[:] = _ZERO
        for t in range(steps):
            count = 0
            for c in range(channels):
                indices[count] = c
                factors[count] = values[t, n, c]
                count += values[t, n, c] != _ZERO
            for k in range(count, count + 3):  # for a number that 4 divides
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
