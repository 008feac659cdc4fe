"""Fusions of other papers that combine the features of the streams' towers before the head.

Each docstring gives the equation that is computed, and says which parts of it are a reconstruction
rather than the paper's own, whose full text was not at hand.

Each takes the features of the streams that are present, mean over tokens, [T, B, C] by name, and
returns a vector [B, C] for each, whose sum is what the head classifies, so that each stream has its
term of the logits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor, nn

from model.config import Config
from model.network.neuron import LIF


class WeightedAttention(nn.Module):
    """Weights of the streams by attention (Q. Liu et al., "Event-based multimodal spiking neural
    network with attention mechanism", ICASSP 2022), a baseline of the S-CMRL paper.

    With f_m the mean of stream m's features over time steps, the fused features are

        sum of w_m f_m,   w = softmax over the streams of (u_m f_m + b_m)

    so that a stream that is absent leaves its weight to the others. The paper's attention weighs
    the outputs of two modalities' networks; that the score is a linear map of the stream's own
    features is a reconstruction.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.score = nn.ModuleDict(
            {name: nn.Linear(config.embed_dim, 1) for name in config.streams}
        )

    def forward(self, features: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], None]:
        """Return each stream's part [B, C] of the fused features; there is no map."""
        means = {name: x.mean(0) for name, x in features.items()}
        scores = torch.cat([self.score[name](x) for name, x in means.items()], 1)
        weights = scores.softmax(1).split(1, 1)  # [B, 1] each
        return {name: w * x for w, (name, x) in zip(weights, means.items(), strict=True)}, None


class CurrentIntegration(nn.Module):
    """Cross-modality current integration (CMCI; R. Jiang et al., ICONIP 2023), a baseline of the
    S-CMRL paper.

    Neurons that all streams share receive the sum of their input currents. With f_m[t] the features
    of stream m at step t, the fused features are the firing rates

        z = mean over t of LIF(sum of I_m)[t],   I_m[t] = norm_m(W_m f_m[t])

    That the currents are those of linear maps with batch norms, of features that are means over
    tokens, is a reconstruction.

    A firing rate is not a sum over streams. Each stream's part is its Shapley value: the mean
    change of z when its current is added, over all orders of the streams. The parts sum to z.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.current = nn.ModuleDict({name: Current(config.embed_dim) for name in config.streams})
        self.lif = LIF()

    def forward(self, features: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], None]:
        """Return each stream's part [B, C] of the fused features; there is no map."""
        currents = {name: self.current[name](x) for name, x in features.items()}
        rates: dict[tuple[str, ...], Tensor] = {}
        for count in range(1, len(currents) + 1):
            for names in combinations(currents, count):
                total = torch.stack([currents[name] for name in names]).sum(0)
                rates[names] = self.lif(total).mean(0)
        return {name: _shapley_value(name, tuple(currents), rates) for name in currents}, None


class Current(nn.Module):
    """Linear map and batch norm: features to currents, both [T, B, C]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, dim, bias=False)
        self.norm = nn.BatchNorm1d(dim)

    def forward(self, features: Tensor) -> Tensor:
        current: Tensor = self.norm(self.linear(features.flatten(0, 1)))
        by_step: Tensor = current.unflatten(0, features.shape[:2])
        return by_step


def _shapley_value(
    name: str, streams: tuple[str, ...], values: Mapping[tuple[str, ...], Tensor]
) -> Tensor:
    """Return a stream's Shapley value from the value of each subset of the streams; 0 of none."""
    others = tuple(stream for stream in streams if stream != name)
    total = values[(name,)] / len(streams)
    for count in range(1, len(streams)):
        weight = 1 / (len(streams) * math.comb(len(others), count))
        for subset in combinations(others, count):
            joined = tuple(stream for stream in streams if stream == name or stream in subset)
            total = total + weight * (values[joined] - values[subset])
    return total


class TemporalAttention(nn.Module):
    """Temporal attention-guided adaptive fusion (TAAF, arXiv 2505.14535): weights of time steps.

    With F[t] the sum of the streams' features at step t, and C classes, the fused features are

        sum over t of s[t] F[t],   s[t] = mean over t' of A[t', t],
        A = softmax(Q K^T / sqrt(C)),   Q = F W_q, K = F W_k

    A and the maps W from features to C values are the paper's. It also computes them for each
    stream, for a loss that balances the streams' learning rates, which is left out. That s is the
    mean over queries, and F a sum, is a reconstruction.

    The map is A [B, T, T]: rows are the steps of the query, columns those of the key.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.query = nn.Linear(config.embed_dim, config.classes, bias=False)
        self.key = nn.Linear(config.embed_dim, config.classes, bias=False)

    def forward(self, features: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """Return each stream's part [B, C] of the fused features, and the map."""
        fused = torch.stack(list(features.values())).sum(0).transpose(0, 1)  # [B, T, C]
        query, key = self.query(fused), self.key(fused)
        attention = (query @ key.transpose(1, 2) / math.sqrt(query.shape[2])).softmax(2)
        weights = attention.mean(1, keepdim=True)  # [B, 1, T]
        parts = {name: (weights @ x.transpose(0, 1)).squeeze(1) for name, x in features.items()}
        return parts, attention


#: Fusions of the towers' features, by their names in the configuration.
FEATURE_FUSIONS: dict[str, type[WeightedAttention | CurrentIntegration | TemporalAttention]] = {
    "weighted": WeightedAttention,
    "cmci": CurrentIntegration,
    "taaf": TemporalAttention,
}
