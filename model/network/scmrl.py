"""S-CMRL on one page: patches, cross-modal residuals, MLP, head: the paper's method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from model.config import Config
from model.network.attention import CCSSA, Maps, Projection, SpikingAttention
from model.network.neuron import LIF
from model.network.patch import PatchSplitting


@dataclass(frozen=True)
class StreamAttention:
    """Where the other streams looked in this one.

    `spatial` [B, rows, columns] over the stream's token grid: non-negative, sums to 1, or all 0
    where no query met a key. `temporal` [B, T, T]: mean of 0.25 q k^T from the step that looks
    (row) to the step looked at (column). None where the network has no such attention.
    """

    spatial: Tensor | None
    temporal: Tensor | None


@dataclass(frozen=True)
class Output:
    """What a forward pass gives.

    `logits` [B, classes]; `bias` [classes], the head's. `residuals`: each stream's cross-modal
    residual, mean over tokens, [T, B, C] (the features of the alignment loss). `stream_logits`:
    each stream's exact share of the logits [B, classes]; their sum plus the bias is `logits`.
    `firing_rates`: spikes per neuron and step [B], 0 to 1, of the layers that make a stream's
    tokens: the last stage of its patch splitting, after its pooling, and the position stage.
    `attention` by the stream that the map is drawn on; None where it was not asked for.
    """

    logits: Tensor
    bias: Tensor
    residuals: dict[str, Tensor] = field(default_factory=dict)
    stream_logits: dict[str, Tensor] = field(default_factory=dict)
    firing_rates: dict[str, Tensor] = field(default_factory=dict)
    attention: dict[str, StreamAttention] | None = None


class CrossModalResidual(nn.Module):
    """What one source stream adds to one target stream: CCSSA, then semantic alignment.

    Tokens [T, B, C, N] to the residual [T, B, C, N]. The alignment transform is a linear map
    over channels and a neuron; without it the attention's own output is the residual.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        assert config.attention is not None
        self.attention = CCSSA(config.embed_dim, config.heads, config.attention)
        self.align = nn.Linear(config.embed_dim, config.embed_dim) if config.alignment else None
        self.lif = LIF() if config.alignment else None

    def forward(self, target: Tensor, source: Tensor, maps: bool) -> tuple[Tensor, Maps]:
        complement, looked = self.attention(target, source, maps)
        if self.align is None or self.lif is None:
            return complement, looked
        return self.lif(self.align(complement.transpose(2, 3)).transpose(2, 3)), looked


class MLP(nn.Module):
    """Two spiking projections over channels; their spikes are added to the tokens."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden = int(config.embed_dim * config.mlp_ratio)
        self.expand = Projection(config.embed_dim, hidden, bias=True)
        self.contract = Projection(hidden, config.embed_dim, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.contract(self.expand(x))
        return x + spikes


class SelfBlock(nn.Module):
    """Block of the single-stream network: self-attention and MLP, each with its residual."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = SpikingAttention(config.embed_dim, config.heads, "spatial")
        self.mlp = MLP(config)

    def forward(self, x: Tensor, maps: bool) -> tuple[Tensor, Maps]:
        spikes, looked = self.attention(x, x, maps)
        return self.mlp(x + spikes), looked


class SCMRL(nn.Module):
    """Semantic-alignment cross-modal residual learning (arXiv 2502.12488).

    Streams are named: each gets one residual from each other one, all computed from the patch
    embeddings. One stream makes the single-stream network of the ablations.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        names = list(config.streams)
        self.single = len(names) == 1
        self.patch = nn.ModuleDict(
            {name: PatchSplitting(stream, config.embed_dim)
             for name, stream in config.streams.items()}
        )  # fmt: skip
        self.blocks = nn.ModuleList(SelfBlock(config) for _ in range(config.depth * self.single))
        self.residual = nn.ModuleDict(
            {target: nn.ModuleDict({source: CrossModalResidual(config)
                                    for source in names if source != target})
             for target in names if not self.single and config.attention}
        )  # fmt: skip
        self.mlp = nn.ModuleDict({name: MLP(config) for name in names if not self.single})
        width = config.embed_dim * (len(names) if config.fusion == "concat" else 1)
        self.head = nn.Linear(width, config.classes)
        self.apply(_initialise)

    def forward(self, inputs: Mapping[str, Tensor], attention: bool = False) -> Output:
        """Class logits for frames [T, B, C, H, W] by stream; every stream has the same T and B.

        A stream that is not in `inputs` adds nothing and gives no residual. `attention` asks
        for the maps. Raises ValueError on an unknown stream or where there is none at all.
        """
        self._check(inputs)
        tokens = {n: self.patch[n](inputs[n]) for n in self.config.streams if n in inputs}
        rates = {name: firing_rate(x, (0, 2, 3)) for name, x in tokens.items()}
        if self.single:
            tokens, residuals, looked = self._self_attend(tokens, attention)
        else:
            tokens, residuals, looked = self._cross_attend(tokens, attention)
        pooled = {name: x.mean((0, 3)) for name, x in tokens.items()}
        return self.read_out(pooled, rates, residuals, looked if attention else None)

    def read_out(
        self,
        features: dict[str, Tensor],
        firing_rates: dict[str, Tensor],
        residuals: dict[str, Tensor],
        looked: dict[str, list[Maps]] | None,
    ) -> Output:
        """The head: logits from each stream's pooled features [B, C], and what goes with them.

        `looked`: the raw maps by the stream that was looked at, None where not asked for.
        """
        stream_logits = self._head(features)
        return Output(
            logits=torch.stack(list(stream_logits.values())).sum(0) + self.head.bias,
            bias=self.head.bias,
            residuals=residuals,
            stream_logits=stream_logits,
            firing_rates=firing_rates,
            attention=None if looked is None else self._attention(looked),
        )

    def _self_attend(
        self, tokens: dict[str, Tensor], maps: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, list[Maps]]]:
        ((name, x),) = tokens.items()
        looked = []
        for block in self.blocks:
            x, seen = block(x, maps)
            looked.append(seen)
        return {name: x}, {}, {name: looked}

    def _cross_attend(
        self, tokens: dict[str, Tensor], maps: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, list[Maps]]]:
        fused, residuals = {}, {}
        looked: dict[str, list[Maps]] = {name: [] for name in tokens}
        for target, x in tokens.items():
            received = []
            for source in tokens:
                if source == target or target not in self.residual:
                    continue
                residual, seen = self.residual[target][source](x, tokens[source], maps)  # type: ignore[index]
                received.append(residual)
                looked[source].append(seen)
            if received:
                total = received[0] if len(received) == 1 else torch.stack(received).sum(0)
                residuals[target] = total.mean(3)
                x = x + self.config.alpha * total
            fused[target] = self.mlp[target](x)
        return fused, residuals, looked

    def _head(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each stream's share [B, classes] of the logits, from its pooled features [B, C]."""
        names = list(self.config.streams)
        if self.config.fusion == "add":
            return {name: x @ self.head.weight.T for name, x in features.items()}
        weights = dict(zip(names, self.head.weight.split(self.config.embed_dim, 1), strict=True))
        return {name: x @ weights[name].T for name, x in features.items()}

    def _attention(self, looked: dict[str, list[Maps]]) -> dict[str, StreamAttention]:
        return {
            name: StreamAttention(
                spatial=_share([m.spatial for m in seen], self.config.streams[name].grid),
                temporal=_mean([m.temporal for m in seen]),
            )
            for name, seen in looked.items()
            if seen
        }

    def _check(self, inputs: Mapping[str, Tensor]) -> None:
        known = set(self.config.streams)
        if not inputs or not set(inputs) <= known:
            raise ValueError(f"inputs {sorted(inputs)}: one or more of {sorted(known)} are needed")


def firing_rate(tokens: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Spikes per neuron and step of tokens, over all but their batch.

    A token is the sum of the spikes of two layers, so the mean of its values is twice the rate.
    """
    return tokens.mean(dims) / 2


def _share(maps: list[Tensor | None], grid: tuple[int, int]) -> Tensor | None:
    """Mean of the maps [B, N], each divided by its sum, as the token grid."""
    total = _mean(maps)
    if total is None:
        return None
    total = total / total.sum(1, keepdim=True).clamp_min(torch.finfo(total.dtype).tiny)
    shares: Tensor = total.unflatten(1, grid)
    return shares


def _mean(maps: list[Tensor | None]) -> Tensor | None:
    found = [x for x in maps if x is not None]
    return torch.stack(found).mean(0) if found else None


def _initialise(module: nn.Module) -> None:
    """As published: linear weights from a truncated normal, biases 0; the rest torch's own."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
