"""Slice, concatenate and move the outputs of batches: tensor by tensor, along the batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from numpy.typing import NDArray
from torch import Tensor

from model.output import ArrayOutput, ArrayT, LayerOperations, Output, StreamAttention

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    OtherArrayT = TypeVar("OtherArrayT", Tensor, NDArray[Any], default=NDArray[Any])

    #: Makes one tensor of an output's tensors, given the dimension of their batch.
    Operation: TypeAlias = Callable[[Sequence[ArrayT], int], OtherArrayT]


def slice_samples(output: Output, first: int, count: int) -> Output:
    """Return `count` samples from `first` on, as views."""
    return _map_tensors(
        [output], lambda tensors, dim: tensors[0].narrow(dim, first, count), output.bias
    )


def concatenate(outputs: Sequence[Output]) -> Output:
    """Return parts of a batch, one after the other, as one output."""
    if len(outputs) == 1:
        return outputs[0]
    return _map_tensors(
        outputs, lambda tensors, dim: torch.cat(list(tensors), dim), outputs[0].bias
    )


def to_cpu(output: Output) -> Output:
    """Return the output in the CPU's memory."""
    return _map_tensors([output], lambda tensors, _: tensors[0].cpu(), output.bias.cpu())


def to_arrays(output: Output) -> ArrayOutput:
    """Return the output, on the CPU, as arrays: views, without residuals, which training alone
    needs."""
    return _map_tensors(
        [replace(output, residuals={})],
        lambda tensors, _: tensors[0].detach().numpy(),
        output.bias.detach().numpy(),
    )


def from_arrays(output: ArrayOutput) -> Output:
    """Return the output as tensors: views."""
    return _map_tensors(
        [output], lambda arrays, _: torch.from_numpy(arrays[0]), torch.from_numpy(output.bias)
    )


def split_to_arrays(output: Output, count: int) -> list[ArrayOutput]:
    """Return each of `count` samples, on the CPU, as `to_arrays` does."""
    whole = to_arrays(output)

    def sample(index: int) -> ArrayOutput:
        def cut(arrays: Sequence[NDArray[Any]], _: int) -> NDArray[Any]:
            return arrays[0][index : index + 1]

        return _map_tensors([whole], cut, whole.bias)

    return [sample(index) for index in range(count)]


def flatten(output: Output) -> Tensor:
    """Return all tensors of the samples (not `bias`) as one flat tensor, which one copy moves."""
    flat: list[Tensor] = []

    def append(tensors: Sequence[Tensor], dim: int) -> Tensor:
        flat.append(tensors[0].flatten())
        return tensors[0]

    _map_tensors([output], append, output.bias)
    return torch.cat(flat)


def unflatten(values: Tensor, like: Output) -> Output:
    """Return the output of a flat tensor, as views; shapes and `bias` are those of `like`."""
    start = 0

    def view(tensors: Sequence[Tensor], dim: int) -> Tensor:
        nonlocal start
        first, start = start, start + tensors[0].numel()
        return values[first:start].view(tensors[0].shape)

    return _map_tensors([like], view, like.bias)


def _map_tensors(
    outputs: Sequence[Output[ArrayT]], operation: Operation[ArrayT, OtherArrayT], bias: OtherArrayT
) -> Output[OtherArrayT]:
    """Return an output of this bias whose tensors are made from the same tensor of each of
    `outputs`."""
    first = outputs[0]
    attention = None
    if first.attention is not None:
        attention = {
            name: _map_attention([o.attention[name] for o in outputs if o.attention], operation)
            for name in first.attention
        }
    return Output(
        logits=operation([o.logits for o in outputs], 0),
        bias=bias,
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
        token_logits={
            name: operation([o.token_logits[name] for o in outputs], 0)
            for name in first.token_logits
        },
        operations=_map_operations(outputs, operation),
    )


def join_operations(
    counts: Sequence[Mapping[str, LayerOperations]],
) -> dict[str, LayerOperations]:
    """Return the operations of parts of a batch, one after the other, by layer."""
    return _map_layers(counts, lambda tensors, dim: torch.cat(list(tensors), dim))


def _map_operations(
    outputs: Sequence[Output[ArrayT]], operation: Operation[ArrayT, OtherArrayT]
) -> dict[str, LayerOperations[OtherArrayT]] | None:
    counts = [output.operations for output in outputs if output.operations is not None]
    return _map_layers(counts, operation) if counts else None


def _map_layers(
    counts: Sequence[Mapping[str, LayerOperations[ArrayT]]],
    operation: Operation[ArrayT, OtherArrayT],
) -> dict[str, LayerOperations[OtherArrayT]]:
    mapped = {}
    for name, layer in counts[0].items():
        layers = [part[name] for part in counts]
        rates = [part.firing_rate for part in layers if part.firing_rate is not None]
        mapped[name] = LayerOperations(
            accumulates=operation([part.accumulates for part in layers], 0),
            multiply_accumulates=operation([part.multiply_accumulates for part in layers], 0),
            dense=layer.dense,
            firing_rate=operation(rates, 0) if rates else None,
        )
    return mapped


def _map_attention(
    parts: Sequence[StreamAttention[ArrayT]], operation: Operation[ArrayT, OtherArrayT]
) -> StreamAttention[OtherArrayT]:
    spatial = [part.spatial for part in parts if part.spatial is not None]
    temporal = [part.temporal for part in parts if part.temporal is not None]
    return StreamAttention(
        spatial=operation(spatial, 0) if spatial else None,
        temporal=operation(temporal, 0) if temporal else None,
    )
