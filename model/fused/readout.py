"""What the fused networks do with tokens alike: values [T, ..., N, C], of one sample on a CPU
(model/fused/cpu/network.py) and of a batch, [T, B, N, C], on CUDA (model/fused/cuda/network.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.network.attention import SCALE, Maps, SpikingAttention


@dataclass(frozen=True)
class Target:
    """One stream: its features [..., C], its tokens' firing rate [...], its residual's mean over
    tokens [T, ..., C] where it received any, and what was looked at, by the stream looked at."""

    features: Tensor
    firing_rate: Tensor
    residual: Tensor | None
    looked: list[tuple[str, Maps]]


def target(
    x: Tensor,
    rate: Tensor,
    received: Sequence[tuple[str, Tensor, Maps]],
    alpha: float,
    mlp: Callable[[Tensor], Tensor],
) -> Target:
    """What becomes of a stream's tokens that received residuals, with their maps, from others."""
    if not received:
        return ended(mlp(x), rate)
    gave = [residual for _, residual, _ in received]
    total = gave[0] if len(gave) == 1 else torch.stack(gave).sum(0)
    looked = [(source, seen) for source, _, seen in received]
    return ended(mlp(x.add(total, alpha=alpha)), rate, total.mean(-2), looked)


def ended(
    x: Tensor,
    rate: Tensor,
    residual: Tensor | None = None,
    looked: Sequence[tuple[str, Maps]] = (),
) -> Target:
    """A stream whose tokens have become x."""
    return Target(x.mean((0, -2)), rate, residual, list(looked))


def complement(attended: Sequence[tuple[Tensor, Maps]]) -> tuple[Tensor, Maps]:
    """As CCSSA, model/network/attention.py, of the spikes of its one or two attentions, spatial
    first."""
    if len(attended) == 1:
        return attended[0]
    (across_space, over_space), (across_time, over_time) = attended
    gave = across_space.mean(-2, keepdim=True) * across_time.mean(0, keepdim=True)
    return gave, Maps(over_space.spatial, over_time.temporal)


def maps(attention: SpikingAttention, q: Tensor, k: Tensor) -> Maps:
    """What queries looked at in keys: `spatial` [..., N_source] or `temporal` [..., T, T]."""
    count = q.shape[-2] * attention.heads
    if attention.over == "temporal":
        return Maps(temporal=torch.einsum("t...nc,s...nc->...ts", q, k) * (SCALE / count))
    looked = (q.sum(-2, keepdim=True) * k).sum((0, -1))
    return Maps(spatial=looked * (SCALE / (len(q) * count)))
