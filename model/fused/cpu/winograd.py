"""3x3 convolutions with a quarter of the multiplications: Winograd's F(4 x 4, 3 x 3).

A tile of 4 x 4 outputs comes from 6 x 6 inputs d and the kernel g as A' [(G g G') * (B' d B)] A
(Lavin and Gray, arXiv 1509.09308). The product * is element by element: over all tiles and channels
it is 36 matrix products. G, B and A evaluate polynomials at 0, 3/4, -3/4, 3/2, -3/2 and
infinity. At these points rounding errs by half as much as at the customary 0, 1, -1, 2, -2 (by
four times as much as summing does), and B' d B of spikes is exact: it has 12 binary digits behind
the point at most.
"""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch import Tensor

from model.arrays import Float32Array
from model.fused.cpu.int8_kernels import Map
from model.fused.cpu.numba_kernels import jit

#: Fewest input channels for which this is faster.
MIN_CHANNELS = 32
#: Tiles per matrix product: the matrices should stay in a core's cache.
_TILES = 128
#: Outputs and inputs along a tile's side.
_OUT, _IN = 4, 6

_A, _B = np.float32(0.75), np.float32(1.5)
_A2, _B2 = _A * _A, _B * _B
_A3, _B3 = _A2 * _A, _B2 * _B
_SUM, _PRODUCT = _A2 + _B2, _A2 * _B2
_ZERO = np.float32(0.0)


def conv3x3(weight: Tensor, bias: Tensor) -> Map:
    """Return a 3x3 convolution with padding 1: [T, C, H, W], channels last, to [T, C', H, W]."""
    kernels, shift = _kernels(weight.detach()), bias.detach().numpy()

    def current(x: Tensor) -> Tensor:
        steps, channels, height, width = x.shape
        rows, columns = -(-height // _OUT), -(-width // _OUT)
        inputs = x.permute(0, 2, 3, 1).numpy()  # [T, H, W, C]
        currents = np.empty((steps, height, width, len(shift)), np.float32)
        rows_per_product = max(1, _TILES // columns)
        for first in range(0, steps * rows, rows_per_product):
            count = min(rows_per_product, steps * rows - first) * columns
            tiles = np.empty((_IN * _IN, count, channels), np.float32)
            _to_tiles(inputs, first, tiles)
            products = torch.bmm(torch.from_numpy(tiles), kernels).numpy()
            _from_tiles(products, shift, first, currents)
        return torch.from_numpy(currents).permute(0, 3, 1, 2)

    return current


def _kernels(weight: Tensor) -> Tensor:
    """Return G g G' of the weight [C', C, 3, 3], as matrices [36, C, C'], rounded once."""
    points = [0.0, float(_A), -float(_A), float(_B), -float(_B)]
    rows = [[p**k / prod(p - q for q in points if q != p) for k in range(3)] for p in points]
    g = torch.tensor([*rows, [0.0, 0.0, 1.0]], dtype=torch.float64)
    transformed = torch.einsum("ai,ocij,bj->abco", g, weight.double(), g)
    return transformed.flatten(0, 1).float().contiguous()


@jit
def _transform_inputs(
    d0: Float32Array, d1: Float32Array, d2: Float32Array,
    d3: Float32Array, d4: Float32Array, d5: Float32Array,
    o0: Float32Array, o1: Float32Array, o2: Float32Array,
    o3: Float32Array, o4: Float32Array, o5: Float32Array,
) -> None:  # fmt: skip
    """B' d of many d [6]: d0 to d5 and o0 to o5 are [n]."""
    for i in range(len(o0)):
        o0[i] = _PRODUCT * d0[i] - _SUM * d2[i] + d4[i]
        even, odd = d4[i] - _B2 * d2[i], _A * (d3[i] - _B2 * d1[i])
        o1[i], o2[i] = even + odd, even - odd
        even, odd = d4[i] - _A2 * d2[i], _B * (d3[i] - _A2 * d1[i])
        o3[i], o4[i] = even + odd, even - odd
        o5[i] = _PRODUCT * d1[i] - _SUM * d3[i] + d5[i]


@jit
def _transform_outputs(
    m0: Float32Array, m1: Float32Array, m2: Float32Array,
    m3: Float32Array, m4: Float32Array, m5: Float32Array,
    o0: Float32Array, o1: Float32Array, o2: Float32Array, o3: Float32Array,
) -> None:  # fmt: skip
    """A' m of many m [6]: m0 to m5 and o0 to o3 are [n]."""
    for i in range(len(o0)):
        even_a, odd_a = m1[i] + m2[i], m1[i] - m2[i]
        even_b, odd_b = m3[i] + m4[i], m3[i] - m4[i]
        o0[i] = m0[i] + even_a + even_b
        o1[i] = _A * odd_a + _B * odd_b
        o2[i] = _A2 * even_a + _B2 * even_b
        o3[i] = _A3 * odd_a + _B3 * odd_b + m5[i]


@jit
def _to_tiles(x: Float32Array, first: int, tiles: Float32Array) -> None:
    """Write B' d B of x [T, H, W, C] into tiles [36, n, C], from row of tiles `first` on.

    There are T ceil(H / 4) rows of tiles. Columns are first sorted by their position in a tile, so
    that the loops that follow run over a whole row.
    """
    _, height, width, channels = x.shape
    rows, columns = (height + 3) // 4, (width + 3) // 4
    length = columns * channels
    # Input row, column modulo 4, column // 4, channel; before and after B' along the rows.
    lines = np.zeros((6, 4, columns + 1, channels), np.float32)
    down = np.empty((6, 4, columns + 1, channels), np.float32)
    line, flat_down = lines.reshape(6, -1), down.reshape(6, -1)
    out = tiles.reshape(36, -1, length)
    for n in range(out.shape[1]):
        t, row = (first + n) // rows, (first + n) % rows
        for k in range(6):
            y = 4 * row - 1 + k
            if y < 0 or y >= height:
                line[k] = _ZERO
                continue
            for w in range(width):
                source, target = x[t, y, w], lines[k, (w + 1) % 4, (w + 1) // 4]
                for c in range(channels):
                    target[c] = source[c]
        _transform_inputs(
            line[0], line[1], line[2], line[3], line[4], line[5],
            flat_down[0], flat_down[1], flat_down[2], flat_down[3], flat_down[4], flat_down[5],
        )  # fmt: skip
        for k in range(6):
            d, o = down[k], 6 * k
            _transform_inputs(
                d[0, :columns].reshape(length), d[1, :columns].reshape(length),
                d[2, :columns].reshape(length), d[3, :columns].reshape(length),
                d[0, 1:].reshape(length), d[1, 1:].reshape(length),
                out[o, n], out[o + 1, n], out[o + 2, n],
                out[o + 3, n], out[o + 4, n], out[o + 5, n],
            )  # fmt: skip


@jit
def _from_tiles(
    products: Float32Array, bias: Float32Array, first: int, current: Float32Array
) -> None:
    """Write A' m A of products m [36, n, C'] plus the bias [C'] into current [T, H, W, C'], from
    row of tiles `first` on."""
    _, height, width, channels = current.shape
    rows, columns = (height + 3) // 4, (width + 3) // 4
    length = columns * channels
    down = np.empty((4, 6, length), np.float32)
    out = np.empty((4, length), np.float32)
    m_rows = products.reshape(36, -1, length)
    for n in range(m_rows.shape[1]):
        t, row = (first + n) // rows, (first + n) % rows
        for k in range(6):
            _transform_outputs(
                m_rows[k, n], m_rows[6 + k, n], m_rows[12 + k, n],
                m_rows[18 + k, n], m_rows[24 + k, n], m_rows[30 + k, n],
                down[0, k], down[1, k], down[2, k], down[3, k],
            )  # fmt: skip
        for k in range(min(4, height - 4 * row)):
            m = down[k]
            _transform_outputs(m[0], m[1], m[2], m[3], m[4], m[5], out[0], out[1], out[2], out[3])
            for w in range(width):
                start = w // 4 * channels
                source, target = out[w % 4], current[t, 4 * row + k, w]
                for c in range(channels):
                    target[c] = source[start + c] + bias[c]
