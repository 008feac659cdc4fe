"""Cross-modal complementary spatiotemporal spiking attention (CCSSA) of the paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from model.config import Attention
from model.network.neuron import LIF

#: Factor on q k^T v, whatever the size of a head.
SCALE = 0.25


class Projection(nn.Module):
    """1x1 convolution, batch norm, neuron: tokens [T, B, C, N] to spikes [T, B, C', N]."""

    def __init__(self, channels_in: int, channels_out: int, *, bias: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels_in, channels_out, 1, bias=bias)
        self.norm = nn.BatchNorm1d(channels_out)
        self.lif = LIF()

    def forward(self, x: Tensor) -> Tensor:
        current = self.norm(self.conv(x.flatten(0, 1)))
        spikes: Tensor = self.lif(current.unflatten(0, x.shape[:2]))
        return spikes


@dataclass(frozen=True)
class Maps:
    """Attention maps of one attention, not normalised.

    `spatial` [B, N_source]: mean of 0.25 q k^T over steps, heads and target tokens.
    `temporal` [B, T, T]: mean of 0.25 q k^T over heads and tokens.
    """

    spatial: Tensor | None = None
    temporal: Tensor | None = None


class SpikingAttention(nn.Module):
    """Spiking attention of a target's queries to a source's keys and values, without softmax.

    `spatial` attends over tokens at each time step; `temporal` over time steps at each token,
    which needs equally many tokens on both sides. Tokens [T, B, C, N], output spikes of the
    target's shape.
    """

    def __init__(self, dim: int, heads: int, over: Literal["spatial", "temporal"]) -> None:
        super().__init__()
        self.heads = heads
        self.over = over
        self.query = Projection(dim, dim)
        self.key = Projection(dim, dim)
        self.value = Projection(dim, dim)
        self.lif = LIF()
        self.out = Projection(dim, dim)

    def forward(self, target: Tensor, source: Tensor, maps: bool) -> tuple[Tensor, Maps]:
        """Return the target's spikes [T, B, C, N], and the maps over the source where `maps`."""
        q, k, v = self.query(target), self.key(source), self.value(source)
        attended = self._spatial(q, k, v) if self.over == "spatial" else self._temporal(q, k, v)
        spikes: Tensor = self.out(self.lif(attended))
        return spikes, self._maps(q, k) if maps else Maps()

    def _spatial(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (
            x.unflatten(2, (self.heads, -1)).transpose(3, 4)  # [T, B, heads, N, d]
            for x in (q, k, v)
        )
        weights = q @ k.transpose(-2, -1)  # [T, B, heads, N_target, N_source]
        return ((weights @ v) * SCALE).transpose(3, 4).flatten(2, 3)

    def _temporal(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (
            x.unflatten(2, (self.heads, -1)).permute(4, 1, 2, 0, 3)  # [N, B, heads, T, d]
            for x in (q, k, v)
        )
        weights = q @ k.transpose(-2, -1)  # [N, B, heads, T, T]
        return self._mix_heads_and_steps((weights @ v) * SCALE)

    @staticmethod
    def _mix_heads_and_steps(x: Tensor) -> Tensor:
        """Return [N, B, heads, T, d] as [T, B, C, N] as published: the head axis is not moved back.

        Channel c of step t is therefore entry (t C + c) of the flattened (heads, T, d). This may be
        unintended in the published code, but its trained weights depend on it.
        """
        tokens, batch, heads, steps, dim = x.shape
        return x.reshape(tokens, batch, steps, heads * dim).permute(2, 1, 3, 0)

    def _maps(self, q: Tensor, k: Tensor) -> Maps:
        if self.over == "temporal":
            return Maps(temporal=torch.einsum("tbcn,sbcn->bts", q, k) * self._scale(q.shape[3]))
        attended = (q.sum(3, keepdim=True) * k).sum((0, 2))  # [B, N_source]
        return Maps(spatial=attended * self._scale(q.shape[0] * q.shape[3]))

    def _scale(self, count: int) -> float:
        return SCALE / (count * self.heads)


class CCSSA(nn.Module):
    """The cross-modal attention of one target stream to one source stream.

    `spatial-temporal` multiplies the spatial output's mean over tokens [T, B, C, 1] by the
    temporal output's mean over steps [1, B, C, N]. Output [T, B, C, N].
    """

    def __init__(self, dim: int, heads: int, kind: Attention) -> None:
        super().__init__()
        self.spatial = SpikingAttention(dim, heads, "spatial") if "spatial" in kind else None
        self.temporal = SpikingAttention(dim, heads, "temporal") if "temporal" in kind else None

    def forward(self, target: Tensor, source: Tensor, maps: bool) -> tuple[Tensor, Maps]:
        """Return the residual [T, B, C, N] before alignment, and the maps over the source."""
        if self.temporal is None:
            assert self.spatial is not None
            spikes, over_space = self.spatial(target, source, maps)
            return spikes, over_space
        across_time, over_time = self.temporal(target, source, maps)
        if self.spatial is None:
            return across_time, over_time
        across_space, over_space = self.spatial(target, source, maps)
        complement = across_space.mean(3, keepdim=True) * across_time.mean(0, keepdim=True)
        return complement, Maps(over_space.spatial, over_time.temporal)
