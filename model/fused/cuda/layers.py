"""Fused layers on CUDA, of a batch: one kernel per layer, which reads and writes packed spikes.

Currents and membrane potentials are never written to memory (model/fused/cuda/packed_spikes.py).
Frames of one step go through the first convolution once, no attention matrix is built, and linear
maps of the same input are one matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from model.fused import folding
from model.fused.cuda import packed_spikes
from model.fused.cuda.tiles import Tiles
from model.fused.folding import Folded
from model.fused.network import End, LinearInput, Summary
from model.network.attention import SpikingAttention
from model.network.patch import Stage


@dataclass(frozen=True)
class PackedTokens:
    """A stream's tokens: the sum of two packed spikes [B, N, C]."""

    pooled: Tensor
    position: Tensor


class PackedLayers:
    """model.fused.network.Layers of a batch; spikes are packed [B, H, W, C] and [B, N, C].

    With `half`, the weights that spikes are multiplied by are rounded to half precision. `tiles`
    are those of the layers, by default the rule's.
    """

    def __init__(self, *, half: bool = False, tiles: Tiles | None = None) -> None:
        self._half = half
        self._tiles = tiles or Tiles()

    def frames(self, x: Tensor) -> Tensor:
        """[T or 1, B, C, H, W] to channels last."""
        return x.permute(0, 1, 3, 4, 2)

    def stage(self, stage: Stage, *, frames: bool, pooled: bool) -> PackedStage:
        weights = _weights(folding.stage(stage), spikes=not frames, half=self._half)
        return PackedStage(weights, self._tiles, pooled=pooled)

    def tokens(self, pooled: Tensor, position: Tensor) -> PackedTokens:
        """Two [B, H, W, C] as tokens."""
        return PackedTokens(pooled.flatten(1, 2), position.flatten(1, 2))

    def linear(self, maps: Sequence[Folded], takes: LinearInput) -> PackedLinear:
        folded = folding.concatenate(maps)
        return PackedLinear(
            _weights(folded, spikes=takes == "spikes", half=self._half), self._tiles
        )

    def attention(self, attention: SpikingAttention) -> PackedAttention:
        return PackedAttention(attention)

    def values(self, x: Tensor | PackedTokens, steps: int) -> Tensor:
        """Packed [B, N, C] to [T, B, N, C]."""
        if isinstance(x, PackedTokens):
            return packed_spikes.unpack(x.pooled, steps, x.position)
        return packed_spikes.unpack(x, steps)

    def complement(self, spatial: Tensor, temporal: Tensor, steps: int) -> Tensor:
        return packed_spikes.complement(spatial, temporal, steps)

    def add(self, tokens: PackedTokens, residual: Tensor, alpha: float, steps: int) -> Tensor:
        return packed_spikes.unpack(tokens.pooled, steps, tokens.position, residual, alpha)

    def summarize(self, end: End[PackedTokens], head: Tensor) -> Summary:
        return packed_spikes.summarize(
            end.tokens.pooled, end.tokens.position, end.residual, end.spikes, head, end.alpha,
            end.steps,
        )  # fmt: skip


class PackedStage:
    """Convolution, batch norm, neuron and, where `pooled`, max-pool.

    Frames [T or 1, B, H, W, C] or packed spikes [B, H, W, C] to packed spikes [B, H', W', C'].
    """

    def __init__(self, weights: packed_spikes.Weights, tiles: Tiles, *, pooled: bool) -> None:
        self._weights = weights
        self._tiles = tiles
        self._pooled = pooled

    def __call__(self, x: Tensor, steps: int) -> Tensor:
        return _fire(x, self._weights, steps, self._tiles, pooled=self._pooled)


class PackedLinear:
    """Concatenated linear maps of the same input and their neurons, to packed spikes [B, N, C'].

    The input is packed spikes [B, N, C] or tokens, or with weights for values [T, B, N, C].
    """

    def __init__(self, weights: packed_spikes.Weights, tiles: Tiles) -> None:
        self._weights = weights
        self._tiles = tiles

    def __call__(self, x: Tensor | PackedTokens, steps: int) -> Tensor:
        # `fire` takes pixels: a token is a pixel of a picture of one row.
        if isinstance(x, PackedTokens):
            pooled, position = x.pooled[:, None], x.position[:, None]
            return _fire(pooled, self._weights, steps, self._tiles, position).squeeze(1)
        return _fire(x.unsqueeze(-3), self._weights, steps, self._tiles).squeeze(1)


class PackedAttention:
    """Packed spikes of an attention's product, of packed q, k and v [B, N, C]."""

    def __init__(self, attention: SpikingAttention) -> None:
        over_tokens = attention.over == "spatial"
        self._attend = (
            packed_spikes.attend_over_tokens if over_tokens else packed_spikes.attend_over_steps
        )
        self._heads = attention.heads
        self._folded = folding.attention(attention)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, steps: int) -> Tensor:
        return self._attend(q, k, v, self._heads, self._folded, steps)


def _fire(
    x: Tensor,
    weights: packed_spikes.Weights,
    steps: int,
    tiles: Tiles,
    added: Tensor | None = None,
    *,
    pooled: bool = False,
) -> Tensor:
    shape = packed_spikes.layer_shape(x, weights, steps, added=added is not None, pooled=pooled)
    return packed_spikes.fire(x, weights, steps, added, tiles.tile(shape), pooled=pooled)


def _weights(folded: Folded, *, spikes: bool, half: bool) -> packed_spikes.Weights:
    """Return weights for spikes, in half precision with `half`, or for real values."""
    if not spikes:
        return packed_spikes.value_weights(folded)
    return packed_spikes.spike_weights(folded, half=half)
