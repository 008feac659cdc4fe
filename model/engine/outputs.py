"""Slice, concatenate and move the outputs of batches: tensor by tensor, along the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from model.network import LayerOperations, Output, StreamAttention

#: Makes one tensor of an output's tensors, given the dimension of their batch.
_Operation = Callable[[Sequence[Tensor], int], Tensor]


def slice_samples(output: Output, first: int, count: int) -> Output:
    """Return `count` samples from `first` on, as views."""
    return _map_tensors([output], lambda tensors, dim: tensors[0].narrow(dim, first, count))


def concatenate(outputs: Sequence[Output]) -> Output:
    """Return parts of a batch, one after the other, as one output."""
    if len(outputs) == 1:
        return outputs[0]
    return _map_tensors(outputs, lambda tensors, dim: torch.cat(list(tensors), dim))


def to_cpu(output: Output) -> Output:
    """Return the output in the CPU's memory."""
    moved = _map_tensors([output], lambda tensors, _: tensors[0].cpu())
    return replace(moved, bias=output.bias.cpu())


def flatten(output: Output) -> Tensor:
    """Return all tensors of the samples (not `bias`) as one flat tensor, which one copy moves."""
    flat: list[Tensor] = []

    def append(tensors: Sequence[Tensor], dim: int) -> Tensor:
        flat.append(tensors[0].flatten())
        return tensors[0]

    _map_tensors([output], append)
    return torch.cat(flat)


def unflatten(values: Tensor, like: Output) -> Output:
    """Return the output of a flat tensor, as views; shapes and `bias` are those of `like`."""
    start = 0

    def view(tensors: Sequence[Tensor], dim: int) -> Tensor:
        nonlocal start
        first, start = start, start + tensors[0].numel()
        return values[first:start].view(tensors[0].shape)

    return _map_tensors([like], view)


def _map_tensors(outputs: Sequence[Output], operation: _Operation) -> Output:
    """Return an output whose tensors are made from the same tensor of each of `outputs`."""
    first = outputs[0]
    attention = None
    if first.attention is not None:
        attention = {
            name: _map_attention([o.attention[name] for o in outputs if o.attention], operation)
            for name in first.attention
        }
    return replace(
        first,
        logits=operation([o.logits for o in outputs], 0),
        residuals={
            name: operation([o.residuals[name] for o in outputs], 1) for name in first.residuals
        },
        stream_logits={
            name: operation([o.stream_logits[name] for o in outputs], 0)
            for name in first.stream_logits
        },
        features={
            name: operation([o.features[name] for o in outputs], 0) for name in first.features
        },
        firing_rates={
            name: operation([o.firing_rates[name] for o in outputs], 0)
            for name in first.firing_rates
        },
        attention=attention,
        operations=_map_operations(outputs, operation),
    )


def join_operations(
    counts: Sequence[Mapping[str, LayerOperations]],
) -> dict[str, LayerOperations]:
    """Return the operations of parts of a batch, one after the other, by layer."""
    return _map_layers(counts, lambda tensors, dim: torch.cat(list(tensors), dim))


def _map_operations(
    outputs: Sequence[Output], operation: _Operation
) -> dict[str, LayerOperations] | None:
    counts = [output.operations for output in outputs if output.operations is not None]
    return _map_layers(counts, operation) if counts else None


def _map_layers(
    counts: Sequence[Mapping[str, LayerOperations]], operation: _Operation
) -> dict[str, LayerOperations]:
    mapped = {}
    for name, layer in counts[0].items():
        layers = [each[name] for each in counts]
        rates = [each.firing_rate for each in layers if each.firing_rate is not None]
        mapped[name] = replace(
            layer,
            accumulates=operation([each.accumulates for each in layers], 0),
            multiply_accumulates=operation([each.multiply_accumulates for each in layers], 0),
            firing_rate=operation(rates, 0) if rates else None,
        )
    return mapped


def _map_attention(parts: Sequence[StreamAttention], operation: _Operation) -> StreamAttention:
    spatial = [part.spatial for part in parts if part.spatial is not None]
    temporal = [part.temporal for part in parts if part.temporal is not None]
    return StreamAttention(
        spatial=operation(spatial, 0) if spatial else None,
        temporal=operation(temporal, 0) if temporal else None,
    )
