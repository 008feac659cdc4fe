"""Convolutions and linear maps of spikes with int8 weights, by oneDNN's kernels for CPUs.

Spikes, and sums of a few of them, are small integers: as bytes they lose nothing, and only the
weights are rounded, to 127 levels per channel. Sums are exact (int32), returned as float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.fused.cpu.onednn import Map

_LEVELS = 127


def conv3x3(weight: Tensor, bias: Tensor) -> Map:
    """Return a 3x3 convolution with padding 1: bytes [T, C, H, W], channels last, to float32."""
    quantised, scale, zero = quantise(weight)
    ones = [1, 1]
    packed = torch.ops.onednn.qconv_prepack(quantised, scale, 1.0, 0, ones, ones, ones, 1, None)

    def current(x: Tensor) -> Tensor:
        sums: Tensor = torch.ops.onednn.qconv2d_pointwise(
            x, 1.0, 0, packed, scale, zero, bias, ones, ones, ones, 1, 1.0, 0, torch.float32,
            "none", [], "",
        )  # fmt: skip
        return sums

    return current


def linear(weight: Tensor, bias: Tensor) -> Map:
    """Return a linear map of small integers: [T, N, C] to float32 [T, N, C']."""
    quantised, scale, zero = quantise(weight)
    packed = torch.ops.onednn.qlinear_prepack(quantised, None)

    def current(x: Tensor) -> Tensor:
        integers = x.flatten(0, 1).to(torch.uint8)  # [T N, C]
        sums: Tensor = torch.ops.onednn.qlinear_pointwise(
            integers, 1.0, 0, packed, scale, zero, bias, 1.0, 0, torch.float32, "none", [], ""
        )
        return sums.view(*x.shape[:2], -1)

    return current


def quantise(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights [C', ...] as int8, and scale [C'] and zero point [C'] of each channel."""
    flat = weight.flatten(1)
    scale = flat.abs().amax(1).clamp_min(1e-12) / _LEVELS
    shape = [-1] + [1] * (weight.dim() - 1)
    quantised = (weight / scale.reshape(shape)).round().clamp(-_LEVELS, _LEVELS).to(torch.int8)
    return quantised, scale, torch.zeros(len(scale), dtype=torch.int64)
