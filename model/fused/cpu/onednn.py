"""Convolutions and linear maps by oneDNN, with weights that are packed once.

oneDNN compiles its kernels for the CPU at hand. torch's own calls do not always use it: a matrix
product of float32 takes MKL, which computes with AVX2 on CPUs not made by Intel that have AVX-512,
and a convolution packs its weights anew at each call, and for one input channel takes a slow way.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import conv2d

#: A function of one tensor.
Map = Callable[[Tensor], Tensor]

#: No operation on the result.
_PLAIN: tuple[str, list[float], str] = ("none", [], "")


def conv3x3(weight: Tensor, bias: Tensor) -> Map:
    """Return a 3x3 convolution with padding 1, channels last, float32 [T, C, H, W] to [T, C', H,
    W]: weight [C', C, 3, 3] and bias [C']."""
    if not torch.backends.mkldnn.is_available():
        weight = weight.contiguous(memory_format=torch.channels_last)
        return lambda x: conv2d(x, weight, bias, padding=1)
    ones = [1, 1]
    # Not packed for one shape of inputs, as T and sizes vary.
    packed = torch.ops.aten.mkldnn_reorder_conv2d_weight(
        weight.contiguous().to_mkldnn(), ones, ones, ones, 1, None
    )

    def convolve(x: Tensor) -> Tensor:
        currents: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, packed, bias, ones, ones, ones, 1, *_PLAIN
        )
        return currents

    return convolve


def linear(weight: Tensor, bias: Tensor) -> Map:
    """Return a linear map: float32 [..., C] to [..., C'], by weight [C', C] and bias [C']."""
    if not torch.backends.mkldnn.is_available():
        return lambda x: functional.linear(x, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)

    def multiply(x: Tensor) -> Tensor:
        currents: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, *_PLAIN)
        return currents

    return multiply
