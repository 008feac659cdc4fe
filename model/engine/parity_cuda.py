"""The fused network of CUDA, layer by layer, for model/engine/parity.py."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from model.fused.cuda import packed_spikes
from model.fused.cuda.network import Tokens, TrainNetwork
from model.network import Output


class TrainLayers:
    """model.engine.parity.Layers, of any number of samples."""

    def __init__(self, fused: TrainNetwork) -> None:
        self._fused = fused

    def output(self, frames: Mapping[str, Tensor], steps: int) -> Output:
        return self._fused(frames, steps, False)

    def stage(self, name: str, index: int, x: Tensor, steps: int) -> Tensor:
        given = x.permute(0, 1, 3, 4, 2)  # [T or 1, B, H, W, C]
        layer = self._fused.patch[name].stages[index]
        fired = packed_spikes.fire(
            given if index == 0 else packed_spikes.packed(given), layer, steps
        )
        return packed_spikes.spikes(packed_spikes.pool(fired), steps).permute(0, 1, 4, 2, 3)

    def position(self, name: str, x: Tensor, steps: int) -> Tensor:
        given = packed_spikes.packed(x.permute(0, 1, 3, 4, 2))
        fired = packed_spikes.fire(given, self._fused.patch[name].position, steps)
        return packed_spikes.spikes(fired, steps).permute(0, 1, 4, 2, 3)

    def tokens(self, name: str, frames: Tensor, steps: int) -> Tensor:
        return self._fused.patch[name](frames, steps).values(steps).transpose(2, 3)

    def residual(self, target: str, source: str, tokens: Mapping[str, Tensor]) -> Tensor:
        steps = len(tokens[target])
        # Any two trains that add up to the tokens will do.
        ours, theirs = (
            Tokens(packed_spikes.packed(x >= 1), packed_spikes.packed(x >= 2))
            for x in (tokens[name].transpose(2, 3) for name in (target, source))
        )
        gave, _ = self._fused.residual[target][source](ours, theirs, steps, False)
        return gave.transpose(2, 3)

    def mlp(self, name: str, x: Tensor) -> Tensor:
        return self._fused.mlp[name](x.transpose(2, 3).contiguous(), len(x)).transpose(2, 3)
