"""S-CMRL made fast on CUDA: the same weights and answers, a layer a kernel.

The layers are in model/fused/cuda/packed_spikes.py.

Between layers there are trains, [B, rows, columns, C]: currents and membrane potentials are never
written to memory. Frames that are held for all steps go through the first convolution once, no
matrix of attention is built, and what one tensor is multiplied by is one matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from model.fused import folding, readout
from model.fused.cuda import packed_spikes
from model.fused.cuda.packed_spikes import Layer
from model.fused.readout import Target
from model.network.attention import SCALE, Maps, SpikingAttention
from model.network.patch import PatchSplitting
from model.network.scmrl import MLP, SCMRL, CrossModalResidual, Output, firing_rate

_T = TypeVar("_T")
#: Makes a layer of what it is multiplied by: packed_spikes.of_spikes or packed_spikes.of_values.
_Make = Callable[[Tensor, Tensor], Layer]


@dataclass(frozen=True)
class Tokens:
    """A stream's tokens as the trains [B, N, C] that they are sums of."""

    pooled: Tensor
    position: Tensor

    def values(self, steps: int) -> Tensor:
        """[T, B, N, C]: 0, 1 or 2."""
        return packed_spikes.spikes(self.pooled, steps, self.position)


def _fired(x: Tensor | Tokens, layer: Layer, steps: int) -> Tensor:
    """Trains [B, N, C'] of a linear map of tokens, trains [B, N, C] or values [T, B, N, C]."""
    if isinstance(x, Tokens):
        added = x.position[:, None]
        return packed_spikes.fire(x.pooled[:, None], layer, steps, added).squeeze(1)
    return packed_spikes.fire(x.unsqueeze(-3), layer, steps).squeeze(1)


class TrainPatches:
    """Spiking patch splitting: frames [T or 1, B, C, H, W] to tokens."""

    def __init__(self, patch: PatchSplitting) -> None:
        self.stages = [
            (packed_spikes.of_spikes if index else packed_spikes.of_values)(*folding.stage(stage))  # type: ignore[arg-type]
            for index, stage in enumerate(patch.stages)
        ]
        self.position = packed_spikes.of_spikes(*folding.stage(patch.position))

    def __call__(self, x: Tensor, steps: int) -> Tokens:
        x = x.permute(0, 1, 3, 4, 2)
        for layer in self.stages:
            x = packed_spikes.pool(packed_spikes.fire(x, layer, steps))
        position = packed_spikes.fire(x, self.position, steps)
        return Tokens(x.flatten(1, 2), position.flatten(1, 2))


class TrainAttentions:
    """Spiking attentions of a target to a source, side by side; `make` for what both are."""

    def __init__(self, attentions: Sequence[SpikingAttention], make: _Make) -> None:
        self._attentions = attentions
        self._query = make(*_beside([a.query for a in attentions]))
        self._key_value = make(*_beside([x for a in attentions for x in (a.key, a.value)]))
        self._out = [packed_spikes.of_spikes(*folding.projection(a.out)) for a in attentions]

    def __call__(
        self, target: Tensor | Tokens, source: Tensor | Tokens, steps: int, maps: bool
    ) -> list[tuple[Tensor, Maps]]:
        """Spikes [T, B, N, C] of each attention, and what it looked at."""
        count = len(self._attentions)
        queries = _fired(target, self._query, steps).chunk(count, 2)
        keys_values = _fired(source, self._key_value, steps).chunk(2 * count, 2)
        gave = []
        for attention, out, q, k, v in zip(
            self._attentions, self._out, queries, keys_values[::2], keys_values[1::2], strict=True
        ):
            over_tokens = attention.over == "spatial"
            attend = (
                packed_spikes.attend_over_tokens if over_tokens else packed_spikes.attend_over_steps
            )
            scale = SCALE / (attention.lif.tau * attention.lif.v_threshold)
            spikes = _fired(attend(q, k, v, attention.heads, scale, steps), out, steps)
            looked = Maps()
            if maps:
                looked = readout.maps(
                    attention, packed_spikes.spikes(q, steps), packed_spikes.spikes(k, steps)
                )
            gave.append((packed_spikes.spikes(spikes, steps), looked))
        return gave


def _beside(layers: Sequence[torch.nn.Module]) -> tuple[Tensor, Tensor]:
    """Projections of the same tokens as one weight and bias."""
    weights, biases = zip(*(folding.projection(layer) for layer in layers), strict=True)  # type: ignore[arg-type]
    return torch.cat(weights), torch.cat(biases)


class TrainResidual:
    """What one source adds to one target: tokens to the residual's values [T, B, N, C]."""

    def __init__(self, residual: CrossModalResidual) -> None:
        both = (residual.attention.spatial, residual.attention.temporal)
        self._attentions = TrainAttentions(
            [a for a in both if a is not None], packed_spikes.of_spikes
        )
        align = folding.alignment(residual)
        self._align = None if align is None else packed_spikes.of_values(*align)

    def __call__(
        self, target: Tokens, source: Tokens, steps: int, maps: bool
    ) -> tuple[Tensor, Maps]:
        gave, looked = readout.complement(self._attentions(target, source, steps, maps))
        if self._align is None:
            return gave, looked
        return packed_spikes.spikes(_fired(gave, self._align, steps), steps), looked


class TrainMLP:
    """Two projections and the residual, values [T, B, N, C]."""

    def __init__(self, mlp: MLP) -> None:
        self._expand = packed_spikes.of_values(*folding.projection(mlp.expand))  # of x + alpha r
        self._contract = packed_spikes.of_spikes(*folding.projection(mlp.contract))

    def __call__(self, x: Tensor, steps: int) -> Tensor:
        hidden = _fired(x, self._expand, steps)
        return x + packed_spikes.spikes(_fired(hidden, self._contract, steps), steps)


class TrainNetwork:
    """A network whose weights are folded; it is on a CUDA device and in eval mode.

    `patch`, `residual` and `mlp` stand for the network's own of that name.
    """

    def __init__(self, network: SCMRL) -> None:
        self._network = network
        self.patch = {name: TrainPatches(network.patch[name]) for name in network.config.streams}  # type: ignore[arg-type]
        self._blocks = [
            (TrainAttentions([block.attention], packed_spikes.of_values), TrainMLP(block.mlp))  # type: ignore[arg-type,list-item]
            for block in network.blocks
        ]
        self.residual = {
            target: {source: TrainResidual(pair) for source, pair in sources.items()}  # type: ignore[operator]
            for target, sources in network.residual.items()
        }
        self.mlp = {name: TrainMLP(mlp) for name, mlp in network.mlp.items()}  # type: ignore[arg-type]
        device = network.head.bias.device
        self._beside = (
            [torch.cuda.Stream(device) for _ in self.patch] if device.type == "cuda" else []
        )

    def __call__(self, inputs: Mapping[str, Tensor], steps: int, attention: bool) -> Output:
        """As SCMRL.forward, but frames [T or 1, B, C, H, W] are held, not repeated."""
        names = [name for name in self.patch if name in inputs]
        split = self._side_by_side(lambda name: self.patch[name](inputs[name], steps), names)
        given = dict(zip(names, split, strict=True))
        found = self._side_by_side(lambda name: self._target(name, given, steps, attention), names)
        targets = dict(zip(names, found, strict=True))
        looked: dict[str, list[Maps]] = {name: [] for name in names}
        for target in found:
            for source, seen in target.looked:
                looked[source].append(seen)
        return self._network.read_out(
            {name: target.features for name, target in targets.items()},
            {name: target.firing_rate for name, target in targets.items()},
            {name: t.residual for name, t in targets.items() if t.residual is not None},
            looked if attention else None,
        )

    def _side_by_side(self, work: Callable[[str], _T], names: Sequence[str]) -> list[_T]:
        """The work on each stream of the network, on a stream of the device each: with few samples
        one alone does not fill it.

        What one is given or gives is kept until all have joined, so that its memory goes to
        nobody else before.
        """
        if not self._beside:
            return [work(name) for name in names]
        current = torch.cuda.current_stream()
        gave = []
        for name, stream in zip(names, self._beside, strict=False):
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                gave.append(work(name))
        for stream in self._beside[: len(names)]:
            current.wait_stream(stream)
        return gave

    def _target(self, name: str, given: Mapping[str, Tokens], steps: int, maps: bool) -> Target:
        """What becomes of one stream's tokens, given all of the batch's."""
        x = given[name].values(steps)
        rate = firing_rate(x, (0, 2, 3))
        if self._blocks:
            return self._self_attended(name, x, rate, steps, maps)
        received = [
            (source, *residual(given[name], given[source], steps, maps))
            for source, residual in self.residual.get(name, {}).items()
            if source in given
        ]
        alpha, mlp = self._network.config.alpha, self.mlp[name]
        return readout.target(x, rate, received, alpha, lambda x: mlp(x, steps))

    def _self_attended(self, name: str, x: Tensor, rate: Tensor, steps: int, maps: bool) -> Target:
        looked = []
        for attentions, mlp in self._blocks:
            ((spikes, seen),) = attentions(x, x, steps, maps)
            x = mlp(x + spikes, steps)
            looked.append((name, seen))
        return readout.ended(x, rate, looked=looked)
