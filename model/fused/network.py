"""S-CMRL with fused layers: the forward pass of model/network/scmrl.py for CPUs and for CUDA.

There are two backends. Each implements the layers (`Layers`: model/fused/cpu/layers.py,
model/fused/cuda/layers.py) and decides what runs in parallel (model/fused/cpu/network.py,
model/fused/cuda/network.py).

Values are float32 [T, ..., N, C]: [T, N, C] of one sample on a CPU, [T, B, N, C] of a batch on
CUDA. How spikes are stored between layers is up to the backend.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from model.fused import folding
from model.fused.folding import Folded
from model.network.attention import SCALE, Maps, SpikingAttention
from model.network.patch import PatchSplitting, Stage
from model.network.scmrl import MLP, SCMRL, CrossModalResidual, firing_rate
from model.output import Output

#: A stream's tokens as the backend stores them: sums of the spikes of two layers.
Tokens = TypeVar("Tokens")
_Input = TypeVar("_Input", contravariant=True)
#: What a linear map is applied to: spikes or tokens as stored, values that are small integers, or
#: any values.
LinearInput = Literal["spikes", "integers", "reals"]


class StageLayer(Protocol):
    """Convolution, batch norm, neuron and, where made so, max-pool."""

    def __call__(self, x: Tensor, steps: int) -> Tensor:
        """Return the spikes of frames (one step is held for all `steps`) or of spikes."""


class LinearLayer(Protocol[_Input]):
    """Linear maps of the same input, batch norm folded into them, and their neurons."""

    def __call__(self, x: Tensor | _Input, steps: int) -> Tensor:
        """Return spikes [..., N, C'], C' the sum of the maps' channels."""


class AttentionLayer(Protocol):
    """The attention's product and its neuron."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, steps: int) -> Tensor:
        """Return the spikes of SCALE (q k^T) v, of spikes [..., N, C]."""


class Layers(Protocol[Tokens]):
    """The layers of one backend, made from those of the plain network."""

    def frames(self, x: Tensor) -> Tensor:
        """Return frames in the layout that the first stage takes."""

    def stage(self, stage: Stage, *, frames: bool, pooled: bool) -> StageLayer:
        """Make a stage that takes frames or spikes."""

    def tokens(self, pooled: Tensor, position: Tensor) -> Tokens:
        """Return the tokens of the last stage's pooled spikes and the position stage's."""

    def linear(self, maps: Sequence[Folded], takes: LinearInput) -> LinearLayer[Tokens]:
        """Make linear maps of the same input, and their neurons."""

    def attention(self, attention: SpikingAttention) -> AttentionLayer:
        """Make the product of an attention."""

    def values(self, x: Tensor | Tokens, steps: int) -> Tensor:
        """Return spikes or tokens as values [T, ..., N, C]."""


@dataclass(frozen=True)
class StreamFeatures:
    """The contribution of a stream to the output.

    Features [..., C], firing rate of its tokens [...], mean over tokens of its residual
    [T, ..., C] (None where it received none), the maps with the stream they lie on, and its tokens,
    means over steps [..., N, C] (None where no maps were requested).
    """

    features: Tensor
    firing_rate: Tensor
    residual: Tensor | None
    maps: list[tuple[str, Maps]]
    tokens: Tensor | None


class FusedPatches(Generic[Tokens]):
    """Spiking patch splitting: frames to tokens."""

    def __init__(self, patch: PatchSplitting, layers: Layers[Tokens]) -> None:
        self._layers = layers
        self.stages = [
            layers.stage(stage, frames=index == 0, pooled=True)  # type: ignore[arg-type]
            for index, stage in enumerate(patch.stages)
        ]
        self.position = layers.stage(patch.position, frames=False, pooled=False)

    def __call__(self, frames: Tensor, steps: int) -> Tokens:
        x = self._layers.frames(frames)
        for stage in self.stages:
            x = stage(x, steps)
        return self._layers.tokens(x, self.position(x, steps))


class FusedAttentions(Generic[Tokens]):
    """Spiking attentions of a target to a source: their projections are one matrix product."""

    def __init__(
        self, attentions: Sequence[SpikingAttention], layers: Layers[Tokens], takes: LinearInput
    ) -> None:
        self._layers = layers
        self._attentions = attentions
        self._query = layers.linear([folding.projection(a.query) for a in attentions], takes)
        self._key_value = layers.linear(
            [folding.projection(p) for a in attentions for p in (a.key, a.value)], takes
        )
        self._attend = [layers.attention(a) for a in attentions]
        self._out = [layers.linear([folding.projection(a.out)], "spikes") for a in attentions]

    def __call__(
        self, target: Tensor | Tokens, source: Tensor | Tokens, steps: int, maps: bool
    ) -> list[tuple[Tensor, Maps]]:
        """Return the output spikes of each attention, as values, and its maps."""
        count = len(self._attentions)
        queries = self._query(target, steps).chunk(count, -1)
        keys_values = self._key_value(source, steps).chunk(2 * count, -1)
        outputs = []
        for index, attention in enumerate(self._attentions):
            q, k, v = queries[index], keys_values[2 * index], keys_values[2 * index + 1]
            spikes = self._out[index](self._attend[index](q, k, v, steps), steps)
            values = self._layers.values
            attended = (
                attention_maps(attention, values(q, steps), values(k, steps)) if maps else Maps()
            )
            outputs.append((values(spikes, steps), attended))
        return outputs


class FusedResidual(Generic[Tokens]):
    """The residual of one source stream in one target stream: CCSSA, then semantic alignment."""

    def __init__(self, residual: CrossModalResidual, layers: Layers[Tokens]) -> None:
        self._layers = layers
        pair = (residual.attention.spatial, residual.attention.temporal)
        self._attentions = FusedAttentions([a for a in pair if a is not None], layers, "spikes")
        align = folding.alignment(residual)
        # Products of means are no integers.
        self._align = None if align is None else layers.linear([align], "reals")

    def __call__(
        self, target: Tokens, source: Tokens, steps: int, maps: bool
    ) -> tuple[Tensor, Maps]:
        """Return the residual's values and the maps over the source."""
        residual, attended = complement(self._attentions(target, source, steps, maps))
        if self._align is not None:
            residual = self._layers.values(self._align(residual, steps), steps)
        return residual, attended


class FusedMLP(Generic[Tokens]):
    """Two projections, whose spikes are added to the values they come from."""

    def __init__(self, mlp: MLP, layers: Layers[Tokens]) -> None:
        self._layers = layers
        # Its input is x + alpha r, of any alpha.
        self._expand = layers.linear([folding.projection(mlp.expand)], "reals")
        self._contract = layers.linear([folding.projection(mlp.contract)], "spikes")

    def __call__(self, x: Tensor, steps: int) -> Tensor:
        hidden = self._expand(x, steps)
        return x + self._layers.values(self._contract(hidden, steps), steps)


class FusedNetwork(Generic[Tokens]):
    """The network with fused layers, stream by stream; `network` is in eval mode.

    `patch`, `residual` and `mlp` are named as in SCMRL.
    """

    def __init__(self, network: SCMRL, layers: Layers[Tokens]) -> None:
        self._network = network
        self._layers = layers
        self.patch = {
            name: FusedPatches(network.patch[name], layers)  # type: ignore[arg-type]
            for name in network.config.streams
        }
        self.residual = {
            target: {source: FusedResidual(pair, layers) for source, pair in sources.items()}  # type: ignore[operator]
            for target, sources in network.residual.items()
        }
        self.mlp = {name: FusedMLP(mlp, layers) for name, mlp in network.mlp.items()}  # type: ignore[arg-type]
        self._blocks = [
            (
                FusedAttentions([block.attention], layers, "integers"),  # type: ignore[list-item]
                FusedMLP(block.mlp, layers),  # type: ignore[arg-type]
            )
            for block in network.blocks
        ]

    def stream(
        self, name: str, tokens: Mapping[str, Tokens], steps: int, maps: bool
    ) -> StreamFeatures:
        """Return what a stream contributes, from the tokens of all streams."""
        x = self._layers.values(tokens[name], steps)
        rate = firing_rate(x, (0, -2, -1))
        if self._blocks:
            return self._self_attend(name, x, rate, steps, maps)
        residuals, attended = [], []
        for source, residual in self.residual.get(name, {}).items():
            if source in tokens:
                values, over_source = residual(tokens[name], tokens[source], steps, maps)
                residuals.append(values)
                attended.append((source, over_source))
        if not residuals:
            return _features(self.mlp[name](x, steps), rate, None, [], maps)
        total = residuals[0] if len(residuals) == 1 else torch.stack(residuals).sum(0)
        x = self.mlp[name](x.add(total, alpha=self._network.config.alpha), steps)
        return _features(x, rate, total.mean(-2), attended, maps)

    def _self_attend(
        self, name: str, x: Tensor, rate: Tensor, steps: int, maps: bool
    ) -> StreamFeatures:
        """Run the blocks of the single-stream network."""
        attended = []
        for attentions, mlp in self._blocks:
            ((spikes, over_itself),) = attentions(x, x, steps, maps)
            x = mlp(x + spikes, steps)
            attended.append((name, over_itself))
        return _features(x, rate, None, attended, maps)

    def read_out(self, streams: Mapping[str, StreamFeatures], maps: bool) -> Output:
        """Return the output of a batch from the features of its streams."""
        attended: dict[str, list[Maps]] = {name: [] for name in streams}
        for stream in streams.values():
            for source, over_source in stream.maps:
                attended[source].append(over_source)
        return self._network.read_out(
            {name: stream.features for name, stream in streams.items()},
            {name: stream.firing_rate for name, stream in streams.items()},
            {name: s.residual for name, s in streams.items() if s.residual is not None},
            attended if maps else None,
            {name: s.tokens for name, s in streams.items() if s.tokens is not None},
        )


def _features(
    x: Tensor,
    rate: Tensor,
    residual: Tensor | None,
    attended: list[tuple[str, Maps]],
    maps: bool,
) -> StreamFeatures:
    """Return the features of a stream's last values x [T, ..., N, C]."""
    return StreamFeatures(x.mean((0, -2)), rate, residual, attended, x.mean(0) if maps else None)


def complement(attended: Sequence[tuple[Tensor, Maps]]) -> tuple[Tensor, Maps]:
    """Combine the outputs of one or two attentions, spatial first, as CCSSA does."""
    if len(attended) == 1:
        return attended[0]
    (across_space, over_space), (across_time, over_time) = attended
    values = across_space.mean(-2, keepdim=True) * across_time.mean(0, keepdim=True)
    return values, Maps(over_space.spatial, over_time.temporal)


def attention_maps(attention: SpikingAttention, q: Tensor, k: Tensor) -> Maps:
    """Return the maps of queries and keys [T, ..., N, C]: `spatial` [..., N_source] or `temporal`
    [..., T, T]."""
    count = q.shape[-2] * attention.heads
    if attention.over == "temporal":
        return Maps(temporal=torch.einsum("t...nc,s...nc->...ts", q, k) * (SCALE / count))
    attended = (q.sum(-2, keepdim=True) * k).sum((0, -1))
    return Maps(spatial=attended * (SCALE / (len(q) * count)))
