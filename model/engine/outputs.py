"""Outputs of batches taken apart, put together and moved: tensor by tensor, along its batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from model.network import Output, StreamAttention


def sliced(output: Output, first: int, count: int) -> Output:
    """`count` samples from `first` on, as views."""
    return _each([output], lambda xs, dim: xs[0].narrow(dim, first, count))


def joined(outputs: Sequence[Output]) -> Output:
    """Parts of a batch, one after the other, as one."""
    if len(outputs) == 1:
        return outputs[0]
    return _each(outputs, lambda xs, dim: torch.cat(list(xs), dim))


def on_cpu(output: Output) -> Output:
    """The output in the CPU's memory."""
    moved = _each([output], lambda xs, _: xs[0].cpu())
    return replace(moved, bias=output.bias.cpu())


def packed(output: Output) -> Tensor:
    """All that belongs to samples, one tensor after the other, as one: one copy moves it."""
    found: list[Tensor] = []

    def kept(xs: Sequence[Tensor], dim: int) -> Tensor:
        found.append(xs[0].flatten())
        return xs[0]

    _each([output], kept)
    return torch.cat(found)


def unpacked(values: Tensor, like: Output) -> Output:
    """What was packed, as views, shaped as `like`, whose bias it has."""
    first = 0

    def taken(xs: Sequence[Tensor], dim: int) -> Tensor:
        nonlocal first
        first += xs[0].numel()
        return values[first - xs[0].numel() : first].view(xs[0].shape)

    return _each([like], taken)


def _each(outputs: Sequence[Output], make: Callable[[Sequence[Tensor], int], Tensor]) -> Output:
    """An output of what `make` gives for each tensor and its batch's dimension."""
    first = outputs[0]
    attention = None
    if first.attention is not None:
        attention = {
            name: _maps([o.attention[name] for o in outputs if o.attention], make)
            for name in first.attention
        }
    return replace(
        first,
        logits=make([o.logits for o in outputs], 0),
        residuals={name: make([o.residuals[name] for o in outputs], 1) for name in first.residuals},
        stream_logits={
            name: make([o.stream_logits[name] for o in outputs], 0) for name in first.stream_logits
        },
        firing_rates={
            name: make([o.firing_rates[name] for o in outputs], 0) for name in first.firing_rates
        },
        attention=attention,
    )


def _maps(
    parts: Sequence[StreamAttention], make: Callable[[Sequence[Tensor], int], Tensor]
) -> StreamAttention:
    spatial = [part.spatial for part in parts if part.spatial is not None]
    temporal = [part.temporal for part in parts if part.temporal is not None]
    return StreamAttention(
        spatial=make(spatial, 0) if spatial else None,
        temporal=make(temporal, 0) if temporal else None,
    )
