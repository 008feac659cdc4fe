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

    def complement(self, spatial: Tensor, temporal: Tensor, steps: int) -> Tensor:
        """Return the values of CCSSA: `spatial` spikes, mean over tokens, times `temporal` ones,
        mean over steps."""

    def add(self, tokens: Tokens, residual: Tensor, alpha: float, steps: int) -> Tensor:
        """Return the values of tokens plus alpha times a residual's spikes."""

    def summarize(self, end: End[Tokens], head: Tensor) -> Summary:
        """Return the means of a stream, and its logits by `head` [classes, C], if it has them."""


@dataclass(frozen=True)
class End(Generic[Tokens]):
    """The last tensors of a stream, of `steps` time steps.

    `values` [T, ..., N, C]: its tokens plus `alpha` times the spikes of its residual (None where it
    received none). `spikes`: those that its MLP adds to them.
    """

    tokens: Tokens
    residual: Tensor | None
    values: Tensor
    spikes: Tensor
    alpha: float
    steps: int


@dataclass(frozen=True)
class Summary:
    """Features [..., C] and firing rate [...] of a stream, the mean over tokens of its residual
    [T, ..., C] (None where it received none), and its logits [..., classes] or None."""

    features: Tensor
    firing_rate: Tensor
    residual: Tensor | None
    logits: Tensor | None


@dataclass(frozen=True)
class StreamFeatures:
    """The contribution of a stream to the output.

    Features [..., C], firing rate of its tokens [...], mean over tokens of its residual
    [T, ..., C] (None where it received none), the maps with the stream they lie on, its tokens,
    means over steps [..., N, C] (None where no maps were requested), and its logits [..., classes]
    where the backend computes them.
    """

    features: Tensor
    firing_rate: Tensor
    residual: Tensor | None
    maps: list[tuple[str, Maps]]
    tokens: Tensor | None
    logits: Tensor | None = None


@dataclass(frozen=True)
class Residual:
    """The residual of a source stream, with the maps over the source: `spikes` where semantic
    alignment makes it, else `values`."""

    spikes: Tensor | None
    values: Tensor | None
    maps: Maps


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
        """Return the output spikes of each attention and its maps."""
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
            outputs.append((spikes, attended))
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

    def __call__(self, target: Tokens, source: Tokens, steps: int, maps: bool) -> Residual:
        """Return the residual and the maps over the source."""
        values, attended = self._complement(self._attentions(target, source, steps, maps), steps)
        if self._align is None:
            return Residual(None, values, attended)
        return Residual(self._align(values, steps), None, attended)

    def _complement(
        self, attended: Sequence[tuple[Tensor, Maps]], steps: int
    ) -> tuple[Tensor, Maps]:
        """Combine the outputs of one or two attentions, spatial first, as CCSSA does."""
        if len(attended) == 1:
            ((spikes, maps),) = attended
            return self._layers.values(spikes, steps), maps
        (across_space, over_space), (across_time, over_time) = attended
        values = self._layers.complement(across_space, across_time, steps)
        return values, Maps(over_space.spatial, over_time.temporal)


class FusedMLP(Generic[Tokens]):
    """Two projections; their spikes are to be added to the values they come from."""

    def __init__(self, mlp: MLP, layers: Layers[Tokens]) -> None:
        # Its input is x + alpha r, of any alpha.
        self._expand = layers.linear([folding.projection(mlp.expand)], "reals")
        self._contract = layers.linear([folding.projection(mlp.contract)], "spikes")

    def __call__(self, x: Tensor, steps: int) -> Tensor:
        """Return the spikes to add to values x."""
        return self._contract(self._expand(x, steps), steps)


class FusedNetwork(Generic[Tokens]):
    """The network with fused layers, stream by stream; `network` is in eval mode.

    `patch`, `residual` and `mlp` are named as in SCMRL.
    """

    def __init__(self, network: SCMRL, layers: Layers[Tokens]) -> None:
        self._network = network
        self._layers = layers
        self._head_weights = network.head_weights()
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
        if self._blocks:
            return self._self_attend(name, tokens[name], steps, maps)
        received = [
            (source, residual(tokens[name], tokens[source], steps, maps))
            for source, residual in self.residual.get(name, {}).items()
            if source in tokens
        ]
        attended = [(source, residual.maps) for source, residual in received]
        if len(received) == 1 and received[0][1].spikes is not None:
            return self._finish(name, tokens[name], received[0][1].spikes, steps, attended, maps)
        if not received:
            return self._finish(name, tokens[name], None, steps, attended, maps)
        residuals = [self.residual_values(residual, steps) for _, residual in received]
        total = residuals[0] if len(residuals) == 1 else torch.stack(residuals).sum(0)
        x = self._layers.values(tokens[name], steps)
        rate = firing_rate(x, (0, -2, -1))
        x = x.add(total, alpha=self._network.config.alpha)
        x = x + self._layers.values(self.mlp[name](x, steps), steps)
        return _features(x, rate, total.mean(-2), attended, maps)

    def residual_values(self, residual: Residual, steps: int) -> Tensor:
        """Return a residual as values [T, ..., N, C]."""
        if residual.spikes is not None:
            return self._layers.values(residual.spikes, steps)
        assert residual.values is not None
        return residual.values

    def _finish(
        self,
        name: str,
        tokens: Tokens,
        residual: Tensor | None,
        steps: int,
        attended: list[tuple[str, Maps]],
        maps: bool,
    ) -> StreamFeatures:
        """Run a stream from the spikes of its residual, or without one, to its features."""
        alpha = self._network.config.alpha
        if residual is None:
            x = self._layers.values(tokens, steps)
        else:
            x = self._layers.add(tokens, residual, alpha, steps)
        end = End(tokens, residual, x, self.mlp[name](x, steps), alpha, steps)
        summary = self._layers.summarize(end, self._head_weights[name])
        over_steps = (x + self._layers.values(end.spikes, steps)).mean(0) if maps else None
        return StreamFeatures(
            summary.features, summary.firing_rate, summary.residual, attended, over_steps,
            summary.logits,
        )  # fmt: skip

    def _self_attend(self, name: str, tokens: Tokens, steps: int, maps: bool) -> StreamFeatures:
        """Run the blocks of the single-stream network."""
        values = self._layers.values
        x = values(tokens, steps)
        rate = firing_rate(x, (0, -2, -1))
        attended = []
        for attentions, mlp in self._blocks:
            ((spikes, over_itself),) = attentions(x, x, steps, maps)
            x = x + values(spikes, steps)
            x = x + values(mlp(x, steps), steps)
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
            _stream_logits(streams),
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


def _stream_logits(streams: Mapping[str, StreamFeatures]) -> dict[str, Tensor] | None:
    """Return the logits of each stream; None where the backend leaves them to the head."""
    logits = {name: s.logits for name, s in streams.items() if s.logits is not None}
    return logits if len(logits) == len(streams) else None


def attention_maps(attention: SpikingAttention, q: Tensor, k: Tensor) -> Maps:
    """Return the maps of queries and keys [T, ..., N, C]: `spatial` [..., N_source] or `temporal`
    [..., T, T]."""
    count = q.shape[-2] * attention.heads
    if attention.over == "temporal":
        return Maps(temporal=torch.einsum("t...nc,s...nc->...ts", q, k) * (SCALE / count))
    attended = (q.sum(-2, keepdim=True) * k).sum((0, -1))
    return Maps(spatial=attended * (SCALE / (len(q) * count)))
