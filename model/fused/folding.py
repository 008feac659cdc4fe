"""Batch norm and the neuron's 1/tau and threshold, folded into the weights before them.

A folded neuron is h = decay v + x, a spike where h >= 1. What a kernel has to know of a neuron
beyond that goes through here, to the kernels of model/fused/cpu/ and
model/fused/cuda/triton_kernels.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.network.attention import SCALE, Projection, SpikingAttention
from model.network.neuron import LIF
from model.network.patch import Stage
from model.network.scmrl import CrossModalResidual


@dataclass(frozen=True)
class Folded:
    """A convolution or linear map whose currents go to neurons of that decay.

    Weight [C', C, ...] and bias [C'], float32.
    """

    weight: Tensor
    bias: Tensor
    decay: float


@dataclass(frozen=True)
class FoldedAttention:
    """An attention's product scale (q k^T) v, whose currents go to neurons of that decay."""

    scale: float
    decay: float


def stage(layer: Stage) -> Folded:
    """Return weight [C', C, 3, 3], bias [C'] and decay."""
    return _fold(layer.conv.weight, None, layer.norm, layer.lif)


def projection(layer: Projection) -> Folded:
    """Return weight [C', C, 1], bias [C'] and decay."""
    return _fold(layer.conv.weight, layer.conv.bias, layer.norm, layer.lif)


def alignment(residual: CrossModalResidual) -> Folded | None:
    """Return weight [C, C], bias [C] and decay; None where the network does not align."""
    if residual.align is None or residual.lif is None:
        return None
    unit = _unit(residual.lif)
    return Folded(
        residual.align.weight.detach() / unit,
        residual.align.bias.detach() / unit,
        residual.lif.decay,
    )


def attention(layer: SpikingAttention) -> FoldedAttention:
    """Return scale and decay of an attention's product."""
    return FoldedAttention(SCALE / _unit(layer.lif), layer.lif.decay)


def concatenate(maps: Sequence[Folded]) -> Folded:
    """Return linear maps of the same input as one: weight [sum of C', C].

    Raises ValueError for neurons of more than one decay, as one kernel has one.
    """
    decays = sorted({folded.decay for folded in maps})
    if len(decays) > 1:
        raise ValueError(f"decays {decays} of neurons of concatenated maps: can only be one")
    weight = torch.cat([folded.weight.flatten(1) for folded in maps])
    return Folded(weight, torch.cat([folded.bias for folded in maps]), decays[0])


def _unit(lif: LIF) -> float:
    """Return what currents are divided by.

    Raises ValueError for a neuron that kernels do not have: no path is better than wrong spikes.
    """
    if lif.v_reset != 0 or not lif.decay_input:
        raise ValueError(
            f"a neuron with v_reset={lif.v_reset}, decay_input={lif.decay_input}: "
            "only v_reset=0, decay_input=True can be fused"
        )
    return float(lif.tau * lif.v_threshold)


def _fold(
    weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm1d | nn.BatchNorm2d, lif: LIF
) -> Folded:
    """Return the folded map, computed in float64 and rounded once to float32."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    unit = _unit(lif)
    scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt() / unit
    shift = norm.bias.double() / unit - norm.running_mean.double() * scale
    if bias is not None:
        shift = shift + bias.double() * scale
    scaled = weight.double() * scale.reshape(-1, *[1] * (weight.ndim - 1))
    return Folded(scaled.float().detach(), shift.float().detach(), lif.decay)
