"""Fused layers on a CPU, of one sample: spikes are float32 (or bytes) [T, C, H, W] and [T, N, C].

- Batch norm and the neuron's 1/tau and threshold are folded into the weights before a layer.
- Linear maps of the same input are one matrix; spikes overwrite the currents they come from.
- A neuron and the pooling after it are one pass (model/fused/cpu/numba_kernels.py).
- Where few neurons fire, products with zero are skipped (model/fused/cpu/sparse.py).
- Else, with enough channels, a 3x3 convolution takes a quarter of the multiplications
  (model/fused/cpu/winograd.py).
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
from torch.nn.functional import conv2d

from model.fused import folding
from model.fused.cpu import int8_kernels, numba_kernels, sparse, winograd
from model.fused.cpu.int8_kernels import Map
from model.fused.cpu.numba_kernels import Attend
from model.fused.folding import Folded, FoldedAttention
from model.fused.network import AttentionLayer, End, LinearInput, Summary
from model.network.attention import SpikingAttention
from model.network.patch import Stage
from model.network.scmrl import firing_rate

#: The type of spikes between convolutions.
SpikeType = type[np.float32] | type[np.uint8]


class CPULayers:
    """model.fused.network.Layers of one sample; `int8` needs a CPU that oneDNN has kernels for."""

    def __init__(self, *, int8: bool = False) -> None:
        self._int8 = int8

    def frames(self, x: Tensor) -> Tensor:
        """[T or 1, C, H, W] to channels last."""
        return x.contiguous(memory_format=torch.channels_last)

    def stage(self, stage: Stage, *, frames: bool, pooled: bool) -> ConvStage:
        return ConvStage(stage, frames=frames, pooled=pooled, int8=self._int8)

    def tokens(self, pooled: Tensor, position: Tensor) -> Tensor:
        """Two [T, C, H, W] to their sum [T, N, C]."""
        return (pooled + position).permute(0, 2, 3, 1).flatten(1, 2).float()

    def linear(self, maps: Sequence[Folded], takes: LinearInput) -> Linear:
        return Linear(maps, int8=self._int8 and takes != "reals")

    def attention(self, attention: SpikingAttention) -> AttentionLayer:
        width = attention.query.conv.out_channels // attention.heads
        over_tokens = attention.over == "spatial"
        kernel = (
            numba_kernels.attend_over_tokens if over_tokens else numba_kernels.attend_over_steps
        )
        return Attention(kernel(width), folding.attention(attention))

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


class ConvStage:
    """Convolution, batch norm, neuron and, where `pooled`, max-pool.

    It takes `frames` as float32, or spikes: bytes with `int8`, else float32.
    """

    def __init__(self, stage: Stage, *, frames: bool, pooled: bool, int8: bool) -> None:
        folded = folding.stage(stage)
        weight, bias = folded.weight, folded.bias
        if frames:
            self._conv = _dense_conv3x3(weight, bias)
        else:
            self._conv = (int8_kernels.conv3x3 if int8 else _conv3x3)(weight, bias)
        self._decay = np.float32(folded.decay)
        self._pooled = pooled
        self._spike_type: SpikeType = np.uint8 if int8 else np.float32
        #: The type of its input.
        self.dtype = torch.uint8 if int8 and not frames else torch.float32

    def __call__(self, x: Tensor, steps: int) -> Tensor:
        """[T or 1, C, H, W], channels last, to [steps, C', H', W'] alike."""
        current = self._conv(x).permute(0, 2, 3, 1)  # [T or 1, H, W, C']
        if not self._pooled:  # only the first stage, which is pooled, has inputs of one step
            return _fire(current, self._decay).permute(0, 3, 1, 2).to(x.dtype)
        values = current.contiguous().numpy()
        _, height, width, channels = values.shape
        spikes = np.empty((steps, (height + 1) // 2, (width + 1) // 2, channels), self._spike_type)
        numba_kernels.fire_and_pool(values, self._decay, spikes)
        return torch.from_numpy(spikes).permute(0, 3, 1, 2)


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

    def __init__(self, attend: Attend, folded: FoldedAttention) -> None:
        self._attend = attend
        self._scale, self._decay = np.float32(folded.scale), np.float32(folded.decay)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, steps: int) -> Tensor:
        spikes = torch.empty(q.shape)
        self._attend(q.numpy(), k.numpy(), v.numpy(), self._scale, self._decay, spikes.numpy())
        return spikes


def _conv3x3(weight: Tensor, bias: Tensor) -> Map:
    """Return the 3x3 convolution of spikes with padding 1, channels last: whichever kernel is the
    fastest for their number."""
    channels = weight.shape[1]
    if channels < winograd.MIN_CHANNELS:
        return _dense_conv3x3(weight, bias)
    dense, skipping = winograd.conv3x3(weight, bias), sparse.conv3x3(weight, bias)
    max_density = sparse.max_conv_density(channels)

    def current(x: Tensor) -> Tensor:
        is_sparse = sparse.density(x.permute(0, 2, 3, 1)) <= max_density
        return (skipping if is_sparse else dense)(x)

    return current


def _dense_conv3x3(weight: Tensor, bias: Tensor) -> Map:
    """Return torch's 3x3 convolution with padding 1, channels last."""
    weight = weight.contiguous(memory_format=torch.channels_last)
    return lambda x: conv2d(x, weight, bias, padding=1)


def _float_linear(folded: Folded) -> Map:
    """Return a linear map with its neurons. They add the bias, which is faster than the map."""
    transposed, shift = folded.weight.T.contiguous(), folded.bias.numpy()
    weights = transposed.numpy()  # [C, C']
    decay = np.float32(folded.decay)

    def fire(x: Tensor) -> Tensor:
        if sparse.density(x) <= sparse.MAX_LINEAR_DENSITY:
            spikes = np.empty((*x.shape[:2], len(shift)), np.float32)
            sparse.fire_linear(x.numpy(), weights, shift, decay, spikes)
            return torch.from_numpy(spikes)
        current = torch.matmul(x, transposed)
        numba_kernels.fire_shifted(current.numpy(), shift, decay)
        return current

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
