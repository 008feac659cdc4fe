"""The fused network of CUDA, layer by layer, for model/engine/parity.py."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from model.fused.cuda import packed_spikes
from model.fused.cuda.layers import PackedTokens
from model.fused.cuda.network import CUDANetwork
from model.network import Output


class CUDAParityLayers:
    """Implements the protocol `ParityLayers` for the CUDA network, for any batch size."""

    def __init__(self, network: CUDANetwork) -> None:
        self._network = network
        self._fused = network.fused

    def output(self, frames: Mapping[str, Tensor], steps: int) -> Output:
        return self._network(frames, steps, False)

    def stage(self, name: str, index: int, x: Tensor, steps: int) -> Tensor:
        x = x.permute(0, 1, 3, 4, 2)  # [T or 1, B, H, W, C]
        packed = x if index == 0 else packed_spikes.pack(x)
        fired = self._fused.patch[name].stages[index](packed, steps)
        return packed_spikes.unpack(fired, steps).permute(0, 1, 4, 2, 3)

    def position_stage(self, name: str, x: Tensor, steps: int) -> Tensor:
        packed = packed_spikes.pack(x.permute(0, 1, 3, 4, 2))
        fired = self._fused.patch[name].position(packed, steps)
        return packed_spikes.unpack(fired, steps).permute(0, 1, 4, 2, 3)

    def tokens(self, name: str, frames: Tensor, steps: int) -> Tensor:
        tokens = self._fused.patch[name](frames, steps)
        return packed_spikes.unpack(tokens.pooled, steps, tokens.position).transpose(2, 3)

    def residual(self, target: str, source: str, tokens: Mapping[str, Tensor]) -> Tensor:
        # Tokens are 0, 1 or 2: any two spikes of that sum will do.
        packed = {
            name: PackedTokens(packed_spikes.pack(x >= 1), packed_spikes.pack(x >= 2))
            for name, x in ((name, x.transpose(2, 3)) for name, x in tokens.items())
        }
        steps = len(tokens[target])
        residual = self._fused.residual[target][source](
            packed[target], packed[source], steps, False
        )
        return self._fused.residual_values(residual, steps).transpose(2, 3)

    def mlp(self, name: str, x: Tensor) -> Tensor:
        spikes = self._fused.mlp[name](x.transpose(2, 3).contiguous(), len(x))
        return x + packed_spikes.unpack(spikes, len(x)).transpose(2, 3)
