"""Packed spikes, and the network's layers as one Triton kernel each, for CUDA.

Packed spikes are what one neuron fires over all T steps, in one integer: bit t is its spike at step
t. Tensors of them are [B, H, W, C] or [B, N, C], bytes where T is at most 8, so that a layer's
spikes of all steps take a byte a neuron; a max-pool over spikes is an "or".

A layer reads and writes packed spikes: its currents and membrane potentials stay in registers (the
paper's LIF, 1/tau and threshold folded into the weights: h = decay v + x, a spike where h >= 1).
Spikes are exact in half precision, so tensor cores multiply them by weights that are the sum of two
halves, which together have float32's precision but for two bits, and accumulate in float32; in half
precision, by the first half alone. Other values (frames, means) are multiplied in three parts of
TF32, which is as precise as float32.

No sum depends on the other samples of a batch. Its order over taps and channels is the same in
every program of a layer, and without measured tiles (model/fused/cuda/tiles.py) at every batch
size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from model.config import MAX_STEPS
from model.fused.cuda import triton_kernels as kernels
from model.fused.cuda.tiles import LayerShape, Takes, Tile, rule
from model.fused.folding import Folded, FoldedAttention

#: Exponent that the largest weight of a filter is scaled to, so that the remainder of its first
#: half is a half of full precision as well.
_EXPONENT = 14
#: Tokens per program of attention over tokens.
_ATTENTION_BLOCK_M = 64
#: Elements per program of a kernel without sums.
_BLOCK = 1024


@dataclass(frozen=True)
class Weights:
    """Weights of a convolution or linear map with its batch norm and neuron, for `fire`.

    For spikes: `high` and `low` halves [taps, C, C'], or `high` alone. For values: `high` float32.
    `unit` and `shift` [C']: the current is sum * unit + shift. A linear map has one tap, a 3x3
    convolution nine. `decay` is the neuron's.
    """

    high: Tensor
    low: Tensor | None
    unit: Tensor
    shift: Tensor
    decay: float


def spike_weights(folded: Folded, *, half: bool = False) -> Weights:
    """Return weights for spikes: two halves each, or with `half` one, rounded to the nearest."""
    weight, bias = _by_tap(folded.weight), folded.bias
    exponent = torch.frexp(weight.abs().amax((0, 1))).exponent
    scaled = torch.ldexp(weight, _EXPONENT - exponent)
    high = scaled.half()
    unit = torch.ldexp(torch.ones_like(bias), exponent - _EXPONENT)
    low = None if half else (scaled - high.float()).half()
    return Weights(high, low, unit, bias.contiguous(), folded.decay)


def value_weights(folded: Folded) -> Weights:
    """Return weights for real values."""
    unit = torch.ones_like(folded.bias)
    return Weights(_by_tap(folded.weight), None, unit, folded.bias.contiguous(), folded.decay)


def _by_tap(weight: Tensor) -> Tensor:
    """[C', C, ...] to [taps, C, C']."""
    return weight.reshape(*weight.shape[:2], -1).permute(2, 1, 0).contiguous()


def layer_shape(x: Tensor, weights: Weights, steps: int, *, added: bool = False) -> LayerShape:
    """Return the shape of a layer that `fire` computes, of the same arguments."""
    batch, height, width, channels = x.shape[-4:]
    taps, _, filters = weights.high.shape
    takes: Takes = "spikes" if weights.low is not None else "half"
    if weights.high.dtype == torch.float32:
        takes = "held" if len(x) == 1 else "values"
    return LayerShape(batch, height, width, channels, filters, taps, steps, takes, added)


def fire(
    x: Tensor,
    weights: Weights,
    steps: int,
    added: Tensor | None = None,
    tile: Tile | None = None,
) -> Tensor:
    """Return the layer's packed spikes [B, H, W, C'].

    `x`: packed spikes [B, H, W, C], to whose spikes those of `added` are added; or, with weights
    for values, floats [T or 1, B, H, W, C], where one step is held for all. `tile`: by default the
    rule's. Raises ValueError for more than MAX_STEPS.
    """
    fired, arguments, constants, grid = _launch(x, weights, steps, added, tile)
    kernels.fire[grid](*arguments, **constants)
    return fired


def compile_fire(x: Tensor, weights: Weights, steps: int, added: Tensor | None, tile: Tile) -> None:
    """Compile what `fire` launches for these arguments, where it is not compiled yet."""
    if triton.knobs.runtime.interpret:
        return
    _, arguments, constants, grid = _launch(x, weights, steps, added, tile)
    kernels.fire.warmup(*arguments, grid=grid, **constants)


def _launch(
    x: Tensor, weights: Weights, steps: int, added: Tensor | None, tile: Tile | None
) -> tuple[Tensor, tuple[Any, ...], dict[str, Any], tuple[int, int]]:
    """Return the output of `fire`, and its kernel's arguments, constants and grid."""
    shape = layer_shape(x, weights, steps, added=added is not None)
    tile = tile or rule(shape)
    fired = x.new_empty((*x.shape[-4:-1], shape.filters), dtype=dtype(steps))
    x = x.contiguous()
    low = weights.high if weights.low is None else weights.low
    arguments = (
        x, x if added is None else added, weights.high, low, weights.unit, weights.shift, fired,
        shape.pixels, shape.height, shape.width, shape.channels, shape.filters, steps,
    )  # fmt: skip
    constants = {
        "DECAY": weights.decay, "SIDE": 3 if shape.taps == 9 else 1, "VALUES": not shape.is_spikes,
        "HALF": shape.takes == "half", "HELD": shape.takes == "held", "ADDED": shape.added,
        "WIDE": steps > 32, "FLAT": tile.flat, "BLOCK_T": tile.block_t, "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k, "num_warps": tile.warps,
        "num_stages": tile.stages,
    }  # fmt: skip
    grid = (_ceil_div(shape.pixels, tile.block_m), _ceil_div(shape.filters, tile.block_n))
    return fired, arguments, constants, grid


def pool(x: Tensor) -> Tensor:
    """Max-pool packed spikes [B, H, W, C] at every step: 3x3, stride 2, padding 1."""
    batch, height, width, channels = x.shape
    pooled = x.new_empty((batch, (height + 1) // 2, (width + 1) // 2, channels))
    grid = (_ceil_div(pooled.numel(), _BLOCK),)
    kernels.pool[grid](x, pooled, pooled.numel(), height, width, channels, BLOCK=_BLOCK)
    return pooled


def attend_over_tokens(
    q: Tensor, k: Tensor, v: Tensor, heads: int, folded: FoldedAttention, steps: int
) -> Tensor:
    """Return packed spikes [B, N, C] of scale q (k^T v), by head and step.

    q, k, v: packed spikes [B, N, C], which may be slices of longer rows; q may have another N.
    """
    batch, tokens, channels = q.shape
    width = channels // heads
    fired = q.new_empty(q.shape)
    grid = (batch * heads, _ceil_div(tokens, _ATTENTION_BLOCK_M))
    kernels.attend_over_tokens[grid](
        q, k, v, fired, tokens, k.shape[1], heads, width, q.stride(1), k.stride(1), v.stride(1),
        folded.scale, steps, DECAY=folded.decay, WIDE=steps > 32, BLOCK_M=_ATTENTION_BLOCK_M,
        BLOCK_D=max(16, _next_power_of_2(width)),
    )  # fmt: skip
    return fired


def attend_over_steps(
    q: Tensor, k: Tensor, v: Tensor, heads: int, folded: FoldedAttention, steps: int
) -> Tensor:
    """Return packed spikes [B, N, C] of scale (q k^T) v over the steps, at each token and head.

    q, k, v: packed spikes [B, N, C], which may be slices of longer rows. Heads and steps are mixed
    as published (model/network/attention.py).
    """
    width = q.shape[2] // heads
    fired = q.new_empty(q.shape)
    count = q.shape[0] * q.shape[1] * heads
    block_d = _next_power_of_2(width)
    block_m = max(1, _BLOCK // block_d)
    kernels.attend_over_steps[(_ceil_div(count, block_m),)](
        q, k, v, fired, count, heads, width, q.stride(1), k.stride(1), v.stride(1),
        folded.scale, steps, DECAY=folded.decay, WIDE=steps > 32, BLOCK_M=block_m, BLOCK_D=block_d,
    )  # fmt: skip
    return fired


def unpack(x: Tensor, steps: int, added: Tensor | None = None) -> Tensor:
    """Return packed spikes [...] as float32 [T, ...]: 0 or 1, or up to 2 with those of `added`."""
    x = x.contiguous()  # queries and keys are slices of longer rows
    values = x.new_empty((steps, *x.shape), dtype=torch.float32)
    count = x.numel()
    kernels.unpack[(_ceil_div(count, _BLOCK),)](
        x, x if added is None else added, values, count, steps,
        ADDED=added is not None, BLOCK=_BLOCK,
    )  # fmt: skip
    return values


def pack(spikes: Tensor) -> Tensor:
    """Return spikes [T, ...], each 0 or 1, packed [...]. Raises ValueError where T > MAX_STEPS."""
    steps = len(spikes)
    t = torch.arange(steps, device=spikes.device).reshape(-1, *[1] * (spikes.dim() - 1))
    return (spikes.long() << t).sum(0).to(dtype(steps))


def dtype(steps: int) -> torch.dtype:
    """Return the type of packed spikes, the smallest integer type with a bit for each step."""
    if not 1 <= steps <= MAX_STEPS:
        raise ValueError(f"steps {steps}: can be 1 to {MAX_STEPS}")
    dtypes = {8: torch.uint8, 16: torch.int16, 32: torch.int32, MAX_STEPS: torch.int64}
    return dtypes[next(bits for bits in dtypes if bits >= steps)]


def _ceil_div(count: int, size: int) -> int:
    return -(-count // size)


def _next_power_of_2(count: int) -> int:
    return 1 << (count - 1).bit_length()
