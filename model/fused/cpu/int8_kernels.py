"""Convolutions and linear maps of spikes with int8 weights, by oneDNN's kernels for CPUs.

Spikes, and sums of a few of them, are small integers: as bytes they lose nothing, and only the
weights are rounded, to 127 levels a channel. Sums are exact (int32) and come back as float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: Spikes as bytes to currents.
Map = Callable[[Tensor], Tensor]

_LEVELS = 127


def conv3x3(weight: Tensor, bias: Tensor) -> Map:
    """A 3x3 convolution with padding 1: bytes [T, C, H, W], channels last, to float32 alike."""
    rounded, scale, zero = _rounded(weight)
    ones = [1, 1]
    packed = torch.ops.onednn.qconv_prepack(rounded, scale, 1.0, 0, ones, ones, ones, 1, None)

    def current(x: Tensor) -> Tensor:
        found: Tensor = torch.ops.onednn.qconv2d_pointwise(
            x, 1.0, 0, packed, scale, zero, bias, ones, ones, ones, 1, 1.0, 0, torch.float32,
            "none", [], "",
        )  # fmt: skip
        return found

    return current


def linear(weight: Tensor, bias: Tensor) -> Map:
    """A linear map of small integers: [T, N, C] to float32 [T, N, C']."""
    rounded, scale, zero = _rounded(weight)
    packed = torch.ops.onednn.qlinear_prepack(rounded, None)

    def current(x: Tensor) -> Tensor:
        given = x.flatten(0, 1).to(torch.uint8)
        found: Tensor = torch.ops.onednn.qlinear_pointwise(
            given, 1.0, 0, packed, scale, zero, bias, 1.0, 0, torch.float32, "none", [], ""
        )
        return found.view(*x.shape[:2], -1)

    return current


def _rounded(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights [C', ...] as int8, the scale [C'] and the zero point [C'] of each channel."""
    flat = weight.flatten(1)
    scale = flat.abs().amax(1).clamp_min(1e-12) / _LEVELS
    shape = [-1] + [1] * (weight.dim() - 1)
    rounded = (weight / scale.reshape(shape)).round().clamp(-_LEVELS, _LEVELS).to(torch.int8)
    return rounded, scale, torch.zeros(len(scale), dtype=torch.int64)
