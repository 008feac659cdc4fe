"""Batch norm and the neuron's 1/tau and threshold, folded into the weights before them."""

from __future__ import annotations

from torch import Tensor, nn

from model.network.attention import Projection
from model.network.neuron import LIF
from model.network.patch import Stage
from model.network.scmrl import CrossModalResidual


def stage(layer: Stage) -> tuple[Tensor, Tensor]:
    """Return weight [C', C, 3, 3] and bias [C'] for a neuron h = v / 2 + x that fires at 1."""
    return _fold(layer.conv.weight, None, layer.norm, layer.lif)


def projection(layer: Projection) -> tuple[Tensor, Tensor]:
    """Return weight [C', C, 1] and bias [C'], likewise."""
    return _fold(layer.conv.weight, layer.conv.bias, layer.norm, layer.lif)


def alignment(residual: CrossModalResidual) -> tuple[Tensor, Tensor] | None:
    """Return weight [C, C] and bias [C], likewise; None where the network does not align."""
    if residual.align is None or residual.lif is None:
        return None
    unit = residual.lif.tau * residual.lif.v_threshold
    return residual.align.weight.detach() / unit, residual.align.bias.detach() / unit


def _fold(
    weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm1d | nn.BatchNorm2d, lif: LIF
) -> tuple[Tensor, Tensor]:
    """Return folded weight and bias, computed in float64 and rounded once to float32."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    unit = lif.tau * lif.v_threshold
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt() / unit
    shift = norm.bias.double() / unit - norm.running_mean.double() * scale
    if bias is not None:
        shift = shift + bias.double() * scale
    scaled = weight.double() * scale.reshape(-1, *[1] * (weight.ndim - 1))
    return scaled.float().detach(), shift.float().detach()
