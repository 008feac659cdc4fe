"""Spike trains as bits, and the network's layers as one kernel each, in Triton, for CUDA.

A train is what one neuron fires over all T steps, in one integer: bit t is its spike at step t.
Tensors of trains are [B, H, W, C], bytes where T is at most 8, so that a layer's spikes of all
steps take a byte a neuron; a max-pool over spikes is an "or" over trains.

A layer reads trains and writes trains: its currents and membrane potentials stay in registers
(the paper's LIF, 1/tau and threshold folded into the weights: h = v / 2 + x, a spike where h >= 1).
Spikes are exact in half precision, so tensor cores multiply them by weights that are the sum of two
halves, which together have float32's precision but for two bits, and add up in float32. What is
no spike (frames, means) is multiplied in three parts of TF32, which is as good.

No sum depends on a sample's company: its order over taps and channels is the same in every tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import MAX_STEPS
from model.fused.cuda import triton_kernels as kernels

#: Exponent that the greatest weight of a filter is brought to, so that what its first half leaves
#: is a half of full precision as well.
_EXPONENT = 14
#: Most channels of spikes and of values that are multiplied at a time; part of the order of sums,
#: so the same everywhere.
_SPIKES, _VALUES = 64, 32
#: Trains of a layer from which on a GPU has enough to do in large tiles.
_MANY = 2**22
#: Tokens that a program of attention holds.
_TOKENS = 64
#: Trains that a program of a kernel without sums holds.
_TRAINS = 1024


@dataclass(frozen=True)
class Layer:
    """Weights of a convolution or linear map with its batch norm and neuron, for `fire`.

    Of spikes: `high` and `low` halves [taps, C, C']; of values: `high` float32 and no `low`. `unit`
    and `shift` [C'] make currents of sums. One tap is a linear map, nine a 3x3 convolution.
    """

    high: Tensor
    low: Tensor | None
    unit: Tensor
    shift: Tensor


def of_spikes(weight: Tensor, bias: Tensor) -> Layer:
    """A layer of trains from folded weight [C', C, ...] and bias [C'] (model/fused/folding.py)."""
    weight = _by_tap(weight)
    exponent = torch.frexp(weight.abs().amax((0, 1))).exponent
    scaled = torch.ldexp(weight, _EXPONENT - exponent)
    high = scaled.half()
    unit = torch.ldexp(torch.ones_like(bias), exponent - _EXPONENT)
    return Layer(high, (scaled - high.float()).half(), unit, bias.contiguous())


def of_values(weight: Tensor, bias: Tensor) -> Layer:
    """A layer of real values from folded weight [C', C, ...] and bias [C']."""
    return Layer(_by_tap(weight), None, torch.ones_like(bias), bias.contiguous())


def _by_tap(weight: Tensor) -> Tensor:
    """[C', C, ...] as [taps, C, C']."""
    return weight.reshape(*weight.shape[:2], -1).permute(2, 1, 0).contiguous()


def fire(x: Tensor, layer: Layer, steps: int, added: Tensor | None = None) -> Tensor:
    """The layer's trains [B, H, W, C'].

    `x`: trains [B, H, W, C], to whose spikes those of `added` are added; or, for a layer of
    values, floats [T or 1, B, H, W, C], where one step is held for all.
    """
    values = layer.low is None
    batch, height, width, channels = x.shape[-4:]
    taps, _, filters = layer.high.shape
    rows = batch * height * width
    fired = x.new_empty((batch, height, width, filters), dtype=_kind(steps))
    tile, across, warps = _tile(rows, filters, values)
    most = _VALUES if values else _SPIKES
    x = x.contiguous()
    kernels.fire[(_parts(rows, tile), _parts(filters, across))](
        x, x if added is None else added, layer.high, layer.high if values else layer.low,
        layer.unit, layer.shift, fired, rows, height, width, channels, filters, steps,
        SIDE=3 if taps == 9 else 1, VALUES=values, HELD=values and len(x) == 1,
        ADDED=added is not None, WIDE=steps > 32, ROWS=tile, FILTERS=across,
        CHANNELS=min(most, max(16, _power_of_2(channels))), num_warps=warps,
    )  # fmt: skip
    return fired


def pool(trains: Tensor) -> Tensor:
    """Max-pool 3x3 / 2 of [B, H, W, C] at every step: whether any fired."""
    batch, height, width, channels = trains.shape
    pooled = trains.new_empty((batch, (height + 1) // 2, (width + 1) // 2, channels))
    grid = (_parts(pooled.numel(), _TRAINS),)
    kernels.pool[grid](trains, pooled, pooled.numel(), height, width, channels, TRAINS=_TRAINS)
    return pooled


def attend_over_tokens(
    q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float, steps: int
) -> Tensor:
    """Trains [B, N, C] of scale q (k^T v), by head and step, of trains [B, N, C] (q's N may be
    another one), which may be parts of longer rows."""
    batch, tokens, channels = q.shape
    width = channels // heads
    fired = q.new_empty(q.shape)
    grid = (batch * heads, _parts(tokens, _TOKENS))
    kernels.attend_over_tokens[grid](
        q, k, v, fired, tokens, k.shape[1], heads, width, q.stride(1), k.stride(1), v.stride(1),
        scale, steps, WIDE=steps > 32, TOKENS=_TOKENS,
        WIDTH=max(16, _power_of_2(width)),
    )  # fmt: skip
    return fired


def attend_over_steps(
    q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float, steps: int
) -> Tensor:
    """Trains [B, N, C] of scale (q k^T) v over the steps at each token and head, of trains as
    above; heads and steps are mixed as published (model/network/attention.py)."""
    width = q.shape[2] // heads
    fired = q.new_empty(q.shape)
    places = q.shape[0] * q.shape[1] * heads
    across = _power_of_2(width)
    block = max(1, _TRAINS // across)
    kernels.attend_over_steps[(_parts(places, block),)](
        q, k, v, fired, places, heads, width, q.stride(1), k.stride(1), v.stride(1),
        scale, steps, WIDE=steps > 32, PLACES=block, WIDTH=across,
    )  # fmt: skip
    return fired


def spikes(trains: Tensor, steps: int, added: Tensor | None = None) -> Tensor:
    """Trains [...] as spikes [T, ...] in float32: 0 or 1, or 2 with those of `added`."""
    trains = trains.contiguous()  # queries and keys are parts of longer rows
    values = trains.new_empty((steps, *trains.shape), dtype=torch.float32)
    count = trains.numel()
    kernels.spikes[(_parts(count, _TRAINS),)](
        trains, trains if added is None else added, values, count, steps,
        ADDED=added is not None, TRAINS=_TRAINS,
    )  # fmt: skip
    return values


def packed(spikes: Tensor) -> Tensor:
    """Trains [...] of spikes [T, ...], each 0 or 1."""
    steps = len(spikes)
    t = torch.arange(steps, device=spikes.device).reshape(-1, *[1] * (spikes.dim() - 1))
    return (spikes.long() << t).sum(0).to(_kind(steps))


def _kind(steps: int) -> torch.dtype:
    """What holds a train of T spikes in memory. Raises ValueError for more than MAX_STEPS."""
    if not 1 <= steps <= MAX_STEPS:
        raise ValueError(f"steps {steps}: can be 1 to {MAX_STEPS}")
    kinds = {8: torch.uint8, 16: torch.int16, 32: torch.int32, MAX_STEPS: torch.int64}
    return kinds[next(bits for bits in kinds if bits >= steps)]


def _tile(rows: int, filters: int, values: bool) -> tuple[int, int, int]:
    """Pixels and filters that a program computes, and its warps: small where there are few.

    64 pixels at least, so that Hopper's cards sum by the same instructions in every tile.
    """
    across = min(64, max(16, _power_of_2(filters)))
    if values or rows * filters < _MANY:
        return 64, min(32, across), 4
    return 128, across, 8


def _parts(count: int, size: int) -> int:
    return -(-count // size)


def _power_of_2(count: int) -> int:
    """The least that is not below it."""
    return 1 << (count - 1).bit_length()
