"""The neuron as one operator of torch, which becomes a few operators of ONNX for each time step.

Tracing the neurons step by step would take most of the time to write a graph.
"""

from __future__ import annotations

from typing import Any

import torch
from onnx import TensorProto
from onnxscript import FLOAT
from onnxscript import opset20 as op
from torch import Tensor


@torch.library.custom_op("scmrl::fire", mutates_args=())
def fire(x_seq: Tensor, threshold: float, tau: float) -> Tensor:
    """Return the spikes of input currents, both [T, ...], as `LIF.fire` does."""
    spikes, v = [], None
    for x in x_seq.unbind(0):
        h = x / tau if v is None else v + (x - v) / tau
        spike = h >= threshold
        spikes.append(spike)
        v = torch.where(spike, 0.0, h)
    return torch.stack(spikes).to(x_seq.dtype)


@fire.register_fake
def _(x_seq: Tensor, threshold: float, tau: float) -> Tensor:
    return torch.empty(x_seq.shape, dtype=x_seq.dtype)


def onnx_fire(x_seq: FLOAT, threshold: float, tau: float) -> FLOAT:
    """Return `fire` in operators of ONNX. The threshold is a float there, as the currents are."""
    ops: Any = op  # each operator is annotated with types of its own
    steps = int(x_seq.shape[0])  # type: ignore[index]  # of a value of the graph
    currents = [x_seq] if steps == 1 else ops.Split(x_seq, num_outputs=steps, axis=0)
    limit, divisor = ops.Constant(value_float=threshold), ops.Constant(value_float=tau)
    reset = ops.Constant(value_float=0.0)
    spikes, v = [], None
    for x in currents:
        h = ops.Div(x, divisor) if v is None else ops.Add(v, ops.Div(ops.Sub(x, v), divisor))
        spike = ops.GreaterOrEqual(h, limit)
        spikes.append(ops.Cast(spike, to=TensorProto.FLOAT))
        v = ops.Where(spike, reset, h)
    joined: FLOAT = ops.Concat(*spikes, axis=0) if steps > 1 else spikes[0]
    return joined
