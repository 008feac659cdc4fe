"""3x3 convolutions with padding 1, their neurons and a max-pool: a stage of patch splitting."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from model.arrays import UInt8Array
from model.fused.cpu import lookup, numba_kernels, sparse
from model.fused.cpu.onednn import Map
from model.fused.cpu.vectors import VECTOR, block_vectors
from model.fused.folding import Folded


class SpikeStage:
    """A stage that takes spikes, by whichever kernel is the faster for their number.

    `pooled`: with a max-pool (3x3, stride 2, padding 1).
    """

    #: The type of its input.
    dtype = torch.uint8

    def __init__(self, folded: Folded, *, pooled: bool) -> None:
        self._out, self._channels = folded.weight.shape[:2]
        missing = -self._out % VECTOR
        weight = pad(folded.weight, (0, 0) * 3 + (0, missing))
        self._bias = pad(folded.bias, (0, missing)).numpy()
        self._vectors = block_vectors(len(weight))
        self._by_pass = lookup.by_pass(weight)
        self._pass_tables = lookup.pass_tables(self._channels, self._vectors)
        self._by_spike = sparse.by_spike(weight)
        self._max_density = sparse.max_conv_density(self._channels)
        self._decay = np.float32(folded.decay)
        self._pooled = pooled

    def __call__(self, x: Tensor, steps: int) -> Tensor:
        """[T, C, H, W], bytes 0 or 1, channels last, to [T, C', H', W'] alike."""
        spikes = np.ascontiguousarray(x.permute(0, 2, 3, 1).numpy())
        fired = np.empty((*_size(spikes.shape, self._pooled), len(self._bias)), np.uint8)
        if self._max_density > 0 and sparse.is_sparse(spikes, self._max_density):
            self._skip(spikes, fired)
        else:
            self._look_up(spikes, fired)
        return torch.from_numpy(fired[..., : self._out]).contiguous().permute(0, 3, 1, 2)

    def compile(self) -> None:
        """Compile its kernels, so that no later input waits for a compiler. Raises OSError where
        one cannot be cached on disk."""
        pixel = np.zeros((1, 1, 1, self._channels), np.uint8)
        fired = np.empty((1, 1, 1, len(self._bias)), np.uint8)
        self._look_up(pixel, fired)
        if self._max_density > 0:
            sparse.is_sparse(pixel, self._max_density)
            self._skip(pixel, fired)

    def _look_up(self, spikes: UInt8Array, fired: UInt8Array) -> None:
        lookup.fire_convolution(
            spikes, self._by_pass, self._bias, self._vectors, self._pass_tables, self._decay,
            self._pooled, fired,
        )  # fmt: skip

    def _skip(self, spikes: UInt8Array, fired: UInt8Array) -> None:
        sparse.fire_convolution(
            spikes, self._by_spike, self._bias, self._vectors, self._decay, self._pooled, fired
        )


class CurrentStage:
    """A stage whose currents another library computes: `conv` takes `dtype`, and returns float32.

    `pooled`: with a max-pool (3x3, stride 2, padding 1).
    """

    def __init__(self, conv: Map, dtype: torch.dtype, decay: float, *, pooled: bool) -> None:
        #: The type of its input.
        self.dtype = dtype
        self._conv, self._decay, self._pooled = conv, np.float32(decay), pooled

    def __call__(self, x: Tensor, steps: int) -> Tensor:
        """[T or 1, C, H, W], channels last, to bytes [steps, C', H', W'] alike."""
        currents = self._conv(x).permute(0, 2, 3, 1).contiguous().numpy()  # [T or 1, H, W, C']
        _, height, width = _size(currents.shape, self._pooled)
        fired = np.empty((steps, height, width, currents.shape[3]), np.uint8)
        numba_kernels.fire_all(currents, self._decay, self._pooled, fired)
        return torch.from_numpy(fired).permute(0, 3, 1, 2)

    def compile(self) -> None:
        """Do nothing: any input runs the same kernels."""


def _size(shape: tuple[int, ...], pooled: bool) -> tuple[int, int, int]:
    """Return steps, height and width of a stage's output, of an input [T, H, W, C]."""
    steps, height, width = shape[:3]
    return (steps, (height + 1) // 2, (width + 1) // 2) if pooled else (steps, height, width)
