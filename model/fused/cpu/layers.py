"""Fused layers on a CPU, of one sample: spikes are bytes [T, C, H, W] or float32 [T, N, C].

- Batch norm and the neuron's 1/tau and threshold are folded into the weights before a layer.
- Linear maps of the same input are one matrix.
- A neuron and the pooling after it are one pass (model/fused/cpu/numba_kernels.py).
- A 3x3 convolution of spikes looks up sums of weights in tables (model/fused/cpu/lookup.py).
- Where few neurons fire, products with zero are skipped (model/fused/cpu/sparse.py).
- Frames of one step (direct encoding) go through the first convolution once.
- No attention matrix is built: q (k^T v) is the same integers.
- With `int8`, the weights that spikes are multiplied by are rounded to a byte
  (model/fused/cpu/int8_kernels.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from model.fused import folding
from model.fused.cpu import int8_kernels, numba_kernels, onednn, sparse
from model.fused.cpu.attention import attend_over_steps, attend_over_tokens, head_vectors
from model.fused.cpu.convolution import CurrentStage, SpikeStage
from model.fused.cpu.onednn import Map
from model.fused.folding import Folded, FoldedAttention
from model.fused.network import AttentionLayer, End, LinearInput, Summary
from model.network.attention import SpikingAttention
from model.network.patch import Stage
from model.network.scmrl import firing_rate

ConvStage = SpikeStage | CurrentStage


class CPULayers:
    """model.fused.network.Layers of one sample; `int8` needs a CPU that oneDNN has kernels for."""

    def __init__(self, *, int8: bool = False) -> None:
        self._int8 = int8

    def frames(self, x: Tensor) -> Tensor:
        """[T or 1, C, H, W] to channels last."""
        return x.contiguous(memory_format=torch.channels_last)

    def stage(self, stage: Stage, *, frames: bool, pooled: bool) -> ConvStage:
        folded = folding.stage(stage)
        if not frames and not self._int8:
            return SpikeStage(folded, pooled=pooled)
        conv = (onednn if frames else int8_kernels).conv3x3(folded.weight, folded.bias)
        dtype = torch.float32 if frames else torch.uint8
        return CurrentStage(conv, dtype, folded.decay, pooled=pooled)

    def tokens(self, pooled: Tensor, position: Tensor) -> Tensor:
        """Two [T, C, H, W] to their sum [T, N, C]."""
        return (pooled + position).permute(0, 2, 3, 1).flatten(1, 2).float()

    def linear(self, maps: Sequence[Folded], takes: LinearInput) -> Linear:
        return Linear(maps, int8=self._int8 and takes != "reals")

    def attention(self, attention: SpikingAttention) -> AttentionLayer:
        width = attention.query.conv.out_channels // attention.heads
        over_tokens = attention.over == "spatial"
        return Attention(over_tokens, width, folding.attention(attention))

    def values(self, x: Tensor, steps: int) -> Tensor:
        """[T, N, C] are values already."""
        return x

    def complement(self, spatial: Tensor, temporal: Tensor, steps: int) -> Tensor:
        return spatial.mean(-2, keepdim=True) * temporal.mean(0, keepdim=True)

    def add(self, tokens: Tensor, residual: Tensor, alpha: float, steps: int) -> Tensor:
        return tokens.add(residual, alpha=alpha)

    def summarize(self, end: End[Tensor], head: Tensor) -> Summary:
        """Logits are left to the head, which takes a batch."""
        residual = None if end.residual is None else end.residual.mean(-2)
        features = (end.values + end.spikes).mean((0, -2))
        return Summary(features, firing_rate(end.tokens, (0, -2, -1)), residual, None)


class Linear:
    """Concatenated linear maps of the same input and their neurons: [T, N, C] to [T, N, C'].

    With `int8` the input has to be small integers, as spikes are.
    """

    def __init__(self, maps: Sequence[Folded], *, int8: bool) -> None:
        self._fire = (_int8_linear if int8 else _float_linear)(folding.concatenate(maps))

    def __call__(self, x: Tensor, steps: int) -> Tensor:
        return self._fire(x)


class Attention:
    """Spikes of an attention's product over the tokens at each step, or over the steps at each
    token, [T, N, C]."""

    def __init__(self, over_tokens: bool, width: int, folded: FoldedAttention) -> None:
        self._attend = attend_over_tokens if over_tokens else attend_over_steps
        self._head = head_vectors(width)
        self._scale, self._decay = np.float32(folded.scale), np.float32(folded.decay)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, steps: int) -> Tensor:
        spikes = torch.empty(q.shape)
        self._attend(
            q.numpy(), k.numpy(), v.numpy(), self._head, self._scale, self._decay, spikes.numpy()
        )
        return spikes


def _float_linear(folded: Folded) -> Map:
    """Return a linear map with its neurons."""
    dense = onednn.linear(folded.weight, folded.bias)
    weights, bias = folded.weight.T.contiguous().numpy(), folded.bias.numpy()  # [C, C'], [C']
    decay = np.float32(folded.decay)

    def fire(x: Tensor) -> Tensor:
        spikes = np.empty((*x.shape[:2], len(bias)), np.float32)
        max_density = sparse.MAX_LINEAR_DENSITY
        if sparse.fire_linear(x.numpy(), max_density, weights, bias, decay, spikes):
            return torch.from_numpy(spikes)
        return _fire(dense(x), decay)

    return fire


def _int8_linear(folded: Folded) -> Map:
    """Return a linear map with int8 weights and its neurons."""
    current, decay = int8_kernels.linear(folded.weight, folded.bias), np.float32(folded.decay)
    return lambda x: _fire(current(x), decay)


def _fire(current: Tensor, decay: np.float32) -> Tensor:
    """Overwrite currents [T, ...] by their spikes, and return them contiguous."""
    current = current.contiguous()
    numba_kernels.fire(current.numpy(), decay)
    return current
