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
from model.fused.network import Summary

#: Exponent that the largest weight of a filter is scaled to, so that the remainder of its first
#: half is a half of full precision as well.
_EXPONENT = 14
#: Tokens per program of attention over tokens.
_ATTENTION_BLOCK_M = 64
#: Elements per program of a kernel without sums.
_BLOCK = 1024
#: Types of words of a pool, and words per program.
_WORDS = (torch.int64, torch.int32, torch.int16, torch.uint8)
_WORDS_BLOCK = 256
#: Tokens and channels that a program sums over at a time.
_BLOCK_M, _BLOCK_D = 64, 32
#: Most classes whose logits are computed where the features are.
_MAX_CLASSES = 128


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


def layer_shape(
    x: Tensor, weights: Weights, steps: int, *, added: bool = False, pooled: bool = False
) -> LayerShape:
    """Return the shape of a layer that `fire` computes, of the same arguments."""
    batch, height, width, channels = x.shape[-4:]
    taps, _, filters = weights.high.shape
    takes: Takes = "spikes" if weights.low is not None else "half"
    if weights.high.dtype == torch.float32:
        takes = "held" if len(x) == 1 else "values"
    return LayerShape(batch, height, width, channels, filters, taps, steps, takes, added, pooled)


def fire(
    x: Tensor,
    weights: Weights,
    steps: int,
    added: Tensor | None = None,
    tile: Tile | None = None,
    *,
    pooled: bool = False,
) -> Tensor:
    """Return the layer's packed spikes [B, H, W, C'], or those that `pool` makes of them.

    `x`: packed spikes [B, H, W, C], to whose spikes those of `added` are added; or, with weights
    for values, floats [T or 1, B, H, W, C], where one step is held for all. `tile`: by default the
    rule's. Raises ValueError for more than MAX_STEPS.
    """
    shape = layer_shape(x, weights, steps, added=added is not None, pooled=pooled)
    tile = tile or rule(shape)
    fired, arguments, constants, grid = _launch(x, weights, shape, added, tile)
    kernels.fire[grid](*arguments, **constants)
    return pool(fired) if pooled and not tile.patch_w else fired


def compile_fire(
    x: Tensor, weights: Weights, shape: LayerShape, added: Tensor | None, tile: Tile
) -> None:
    """Compile what `fire` launches for a layer of a shape, where it is not compiled yet."""
    if triton.knobs.runtime.interpret:
        return
    _, arguments, constants, grid = _launch(x, weights, shape, added, tile)
    kernels.fire.warmup(*arguments, grid=grid, **constants)


def _launch(
    x: Tensor, weights: Weights, shape: LayerShape, added: Tensor | None, tile: Tile
) -> tuple[Tensor, tuple[Any, ...], dict[str, Any], tuple[int, int]]:
    """Return the output of `fire`'s kernel, its arguments, constants and grid."""
    x = x.contiguous()
    low = weights.high if weights.low is None else weights.low
    height, width = shape.height, shape.width
    patches_h = patches_w = 1
    programs = _ceil_div(shape.pixels, tile.block_m)
    if tile.patch_w:
        patches_h, patches_w = tile.patches(height, width)
        programs = shape.batch * patches_h * patches_w
        height, width = (height + 1) // 2, (width + 1) // 2
    fired = x.new_empty((shape.batch, height, width, shape.filters), dtype=dtype(shape.steps))
    arguments = (
        x, x if added is None else added, weights.high, low, weights.unit, weights.shift, fired,
        shape.pixels, shape.height, shape.width, shape.channels, shape.filters, shape.steps,
        patches_h, patches_w,
    )  # fmt: skip
    constants = {
        "DECAY": weights.decay, "SIDE": 3 if shape.taps == 9 else 1, "VALUES": not shape.is_spikes,
        "HALF": shape.takes == "half", "HELD": shape.takes == "held", "ADDED": shape.added,
        "WIDE": shape.steps > 32, "FLAT": tile.flat, "WHOLE_H": patches_h == 1,
        "WHOLE_W": patches_w == 1, "BLOCK_T": tile.block_t, "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n, "BLOCK_K": tile.block_k, "PATCH_W": tile.patch_w,
        "num_warps": tile.warps, "num_stages": tile.stages,
    }  # fmt: skip
    return fired, arguments, constants, (programs, _ceil_div(shape.filters, tile.block_n))


def pool(x: Tensor) -> Tensor:
    """Max-pool packed spikes [B, H, W, C] at every step: 3x3, stride 2, padding 1."""
    batch, height, width, channels = x.shape
    pooled = x.new_empty((batch, (height + 1) // 2, (width + 1) // 2, channels))
    # An "or" is the same for words of several channels.
    word = next(each for each in _WORDS if channels * x.itemsize % each.itemsize == 0)
    words, pooled_words = x.view(word), pooled.view(word)
    count = pooled_words.numel()
    kernels.pool[(_ceil_div(count, _WORDS_BLOCK),)](
        words, pooled_words, count, height, width, words.shape[3], BLOCK=_WORDS_BLOCK
    )
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


def unpack(
    x: Tensor,
    steps: int,
    added: Tensor | None = None,
    residual: Tensor | None = None,
    alpha: float = 1.0,
) -> Tensor:
    """Return packed spikes [...] as float32 [T, ...]: 0 or 1, or up to 2 with those of `added`;
    those of `residual` count alpha."""
    x = x.contiguous()  # queries and keys are slices of longer rows
    values = x.new_empty((steps, *x.shape), dtype=torch.float32)
    count = x.numel()
    kernels.unpack[(_ceil_div(count, _BLOCK),)](
        x, x if added is None else added, x if residual is None else residual, values, count, steps,
        alpha, ADDED=added is not None, RESIDUAL=residual is not None, BLOCK=_BLOCK,
    )  # fmt: skip
    return values


def complement(spatial: Tensor, temporal: Tensor, steps: int) -> Tensor:
    """Return float32 [T, B, N, C]: the mean of packed `spatial` [B, N, C] over tokens at a step,
    times that of `temporal` over steps at a token."""
    batch, tokens, channels = spatial.shape
    values = spatial.new_empty((steps, *spatial.shape), dtype=torch.float32)
    grid = (batch, _ceil_div(channels, _BLOCK_D), steps)
    kernels.complement[grid](
        spatial, temporal, values, batch, tokens, channels, steps,
        BLOCK_M=_BLOCK_M, BLOCK_D=_BLOCK_D,
    )  # fmt: skip
    return values


def summarize(
    pooled: Tensor,
    position: Tensor,
    residual: Tensor | None,
    spikes: Tensor,
    head: Tensor,
    alpha: float,
    steps: int,
) -> Summary:
    """Return the means of packed spikes [B, N, C] over tokens and steps, and the logits.

    Features are of the tokens pooled + position, alpha times `residual`, and `spikes`. The logits
    by `head` [classes, C] are None where it has more than `_MAX_CLASSES`.
    """
    batch, tokens, channels = pooled.shape
    classes = len(head)

    def empty(*shape: int) -> Tensor:
        return pooled.new_empty(shape, dtype=torch.float32)

    features, rate, logits = empty(batch, channels), empty(batch), empty(batch, classes)
    mean = features if residual is None else empty(steps, batch, channels)
    has_head = classes <= _MAX_CLASSES
    kernels.summarize[(batch,)](
        pooled, position, pooled if residual is None else residual, spikes, head, features, rate,
        mean, logits, batch, tokens, channels, classes, head.stride(0), head.stride(1), steps,
        alpha, RESIDUAL=residual is not None, HEAD=has_head, BLOCK_M=_BLOCK_M, BLOCK_D=_BLOCK_D,
        BLOCK_N=_next_power_of_2(classes) if has_head else 1,
    )  # fmt: skip
    return Summary(features, rate, None if residual is None else mean, logits if has_head else None)


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
