"""S-CMRL, the paper's network: patch splitting, cross-modal residuals, MLP, head."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from model.config import Config
from model.network.attention import CCSSA, Maps, Projection, SpikingAttention
from model.network.cross_attention import QueryKeyAttention, SpikingCrossAttention
from model.network.fusion import FEATURE_FUSIONS
from model.network.neuron import LIF
from model.network.patch import PatchSplitting
from model.output import Output, StreamAttention


class CrossModalResidual(nn.Module):
    """The residual of one source stream in one target stream: CCSSA, then semantic alignment.

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
        complement, attended = self.attention(target, source, maps)
        if self.align is None or self.lif is None:
            return complement, attended
        return self.lif(self.align(complement.transpose(2, 3)).transpose(2, 3)), attended


class MLP(nn.Module):
    """Two spiking projections over channels; their spikes are added to the tokens [T, B, C, N]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        hidden = int(config.embed_dim * config.mlp_ratio)
        self.expand = Projection(config.embed_dim, hidden, bias=True)
        self.contract = Projection(hidden, config.embed_dim, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        spikes: Tensor = self.contract(self.expand(x))
        return x + spikes


class SelfBlock(nn.Module):
    """Block of the single-stream network: self-attention and MLP, each with its residual.

    Tokens [T, B, C, N] to tokens of the same shape, and the maps.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention = SpikingAttention(config.embed_dim, config.heads, "spatial")
        self.mlp = MLP(config)

    def forward(self, x: Tensor, maps: bool) -> tuple[Tensor, Maps]:
        spikes, attended = self.attention(x, x, maps)
        return self.mlp(x + spikes), attended


class SCMRL(nn.Module):
    """Semantic-alignment cross-modal residual learning (arXiv 2502.12488).

    Streams are named: each gets one residual from each other one, all computed from the patch
    embeddings. One stream makes the single-stream network of the ablations.

    With `fusion` other than `add` and `concat`, another paper's cross-modal attention or its fusion
    of the towers' features takes the place of these residuals.
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
        residual = _residual_kind(config)
        self.residual = nn.ModuleDict(
            {target: nn.ModuleDict({source: residual(config)
                                    for source in names if source != target})
             for target in names if not self.single and residual}
        )  # fmt: skip
        fuse = None if self.single else FEATURE_FUSIONS.get(config.fusion)
        self.fuse = None if fuse is None else fuse(config)
        self.mlp = nn.ModuleDict({name: MLP(config) for name in names if not self.single})
        width = config.embed_dim * (len(names) if config.fusion == "concat" else 1)
        self.head = nn.Linear(width, config.classes)
        self.apply(_initialise)

    def forward(self, inputs: Mapping[str, Tensor], attention: bool = False) -> Output:
        """Return the output for encoded frames [T, B, C, H, W] by stream; logits are [B, classes].

        T and B are the same for all streams; C, H and W are those of `config.streams`. A stream
        that is missing in `inputs` adds nothing to the logits and has no residual. With
        `attention`, the output has attention maps and the logits of each token. Raises ValueError
        for an unknown stream, or where there is no stream.
        """
        self._check(inputs)
        tokens = {n: self.patch[n](inputs[n]) for n in self.config.streams if n in inputs}
        rates = {name: firing_rate(x, (0, 2, 3)) for name, x in tokens.items()}
        if self.single:
            tokens, residuals, attended = self._self_attend(tokens, attention)
        else:
            tokens, residuals, attended = self._cross_attend(tokens, attention)
        pooled, over_time = self._pool(tokens)
        if over_time is not None:
            attended = {name: [Maps(temporal=over_time)] for name in tokens}
        if not attention:
            return self.read_out(pooled, rates, residuals)
        over_steps = {name: x.mean(0).transpose(1, 2) for name, x in tokens.items()}
        return self.read_out(pooled, rates, residuals, attended, over_steps)

    def _pool(self, tokens: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return each stream's features [B, C], and the map over steps [B, T, T] or None."""
        if self.fuse is None:
            return {name: x.mean((0, 3)) for name, x in tokens.items()}, None
        pooled: tuple[dict[str, Tensor], Tensor | None] = self.fuse(
            {name: x.mean(3) for name, x in tokens.items()}
        )
        return pooled

    def read_out(
        self,
        features: dict[str, Tensor],
        firing_rates: dict[str, Tensor],
        residuals: dict[str, Tensor],
        maps: dict[str, list[Maps]] | None = None,
        tokens: Mapping[str, Tensor] | None = None,
        stream_logits: dict[str, Tensor] | None = None,
    ) -> Output:
        """Return the output, with logits from each stream's pooled features [B, C].

        `maps`: the raw maps by the stream that they lie on; `tokens`: each stream's tokens, means
        over the steps [B, N, C]. None where they were not requested. `stream_logits`: by stream
        [B, classes], where they have been computed already.
        """
        if stream_logits is None:
            stream_logits = self._head(features)
        return Output(
            logits=torch.stack(list(stream_logits.values())).sum(0) + self.head.bias,
            bias=self.head.bias,
            residuals=residuals,
            stream_logits=stream_logits,
            features=dict(features),
            firing_rates=firing_rates,
            attention=None if maps is None else self._attention(maps),
            token_logits=self._token_logits(tokens or {}),
        )

    def _token_logits(self, tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what each token adds to its stream's term, [B, rows, columns, classes].

        Features are means over tokens and the head is linear, so this is exact: the class
        activation map of Zhou et al., arXiv 1512.04150, at each class.
        """
        if self.fuse is not None:
            return {}
        terms = self._head({name: x / x.shape[1] for name, x in tokens.items()})
        return {n: x.unflatten(1, self.config.streams[n].grid) for n, x in terms.items()}

    def _self_attend(
        self, tokens: dict[str, Tensor], maps: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, list[Maps]]]:
        ((name, x),) = tokens.items()
        attended = []
        for block in self.blocks:
            x, over_itself = block(x, maps)
            attended.append(over_itself)
        return {name: x}, {}, {name: attended}

    def _cross_attend(
        self, tokens: dict[str, Tensor], maps: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, list[Maps]]]:
        fused, residuals = {}, {}
        # The residuals of other papers have a factor of their own, or none.
        alpha = self.config.alpha if self.config.fuses_as_scmrl else 1.0
        attended: dict[str, list[Maps]] = {name: [] for name in tokens}
        for target, x in tokens.items():
            received = []
            for source in tokens:
                if source == target or target not in self.residual:
                    continue
                residual, over_source = self.residual[target][source](x, tokens[source], maps)  # type: ignore[index]
                received.append(residual)
                attended[source].append(over_source)
            if received:
                total = received[0] if len(received) == 1 else torch.stack(received).sum(0)
                residuals[target] = total.mean(3)
                x = x + alpha * total
            fused[target] = self.mlp[target](x)
        return fused, residuals, attended

    def _head(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return each stream's term [B, ..., classes] of the logits, from features [B, ..., C]."""
        weights = self.head_weights()
        return {name: x @ weights[name].T for name, x in features.items()}

    def head_weights(self) -> dict[str, Tensor]:
        """Return the weights [classes, C] of each stream's features in the logits."""
        names = list(self.config.streams)
        if self.config.fusion != "concat":
            return dict.fromkeys(names, self.head.weight)
        return dict(zip(names, self.head.weight.split(self.config.embed_dim, 1), strict=True))

    def _attention(self, maps: dict[str, list[Maps]]) -> dict[str, StreamAttention]:
        return {
            name: StreamAttention(
                spatial=_normalise(
                    [m.spatial for m in over_stream], self.config.streams[name].grid
                ),
                temporal=_mean([m.temporal for m in over_stream]),
            )
            for name, over_stream in maps.items()
            if over_stream
        }

    def _check(self, inputs: Mapping[str, Tensor]) -> None:
        streams = set(self.config.streams)
        if not inputs or not set(inputs) <= streams:
            raise ValueError(
                f"inputs {sorted(inputs)}: one or more of {sorted(streams)} are needed"
            )


def _residual_kind(
    config: Config,
) -> type[CrossModalResidual | SpikingCrossAttention | QueryKeyAttention] | None:
    """Return the class of the residuals of the streams in each other; None for no residuals."""
    if config.fusion == "sca":
        return SpikingCrossAttention
    if config.fusion == "cmqka":
        return QueryKeyAttention
    return CrossModalResidual if config.attention else None


def firing_rate(tokens: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return spikes per neuron and step of tokens: the mean over `dims`, all but the batch.

    A token is the sum of the spikes of two layers, so the mean of its values is twice the rate.
    """
    return tokens.mean(dims) / 2


def _normalise(maps: list[Tensor | None], grid: tuple[int, int]) -> Tensor | None:
    """Return the mean of maps [B, N], divided by its sum, as the token grid [B, rows, columns]."""
    total = _mean(maps)
    if total is None:
        return None
    total = total / total.sum(1, keepdim=True).clamp_min(torch.finfo(total.dtype).tiny)
    on_grid: Tensor = total.unflatten(1, grid)
    return on_grid


def _mean(maps: list[Tensor | None]) -> Tensor | None:
    present = [x for x in maps if x is not None]
    return torch.stack(present).mean(0) if present else None


def _initialise(module: nn.Module) -> None:
    """Initialise as published: linear weights truncated normal, biases 0, the rest as torch."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
