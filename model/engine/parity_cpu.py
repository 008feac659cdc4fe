"""The fused network of CPUs, layer by layer, for model/engine/parity.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from model.fused.cpu.layers import ConvStage
from model.fused.cpu.network import CPUNetwork
from model.network import Output


class CPUParityLayers:
    """Implements the protocol `ParityLayers` for the CPU network."""

    def __init__(self, network: CPUNetwork) -> None:
        self._network = network
        self._fused = network.fused

    def output(self, frames: Mapping[str, Tensor], steps: int) -> Output:
        return self._network(frames, steps, False)

    def stage(self, name: str, index: int, x: Tensor, steps: int) -> Tensor:
        stage = cast(ConvStage, self._fused.patch[name].stages[index])
        return stage(_channels_last(x, stage.dtype), steps)[:, None]

    def position_stage(self, name: str, x: Tensor, steps: int) -> Tensor:
        stage = cast(ConvStage, self._fused.patch[name].position)
        return stage(_channels_last(x, stage.dtype), steps)[:, None]

    def tokens(self, name: str, frames: Tensor, steps: int) -> Tensor:
        return _to_plain(self._fused.patch[name](frames[:, 0], steps))

    def residual(self, target: str, source: str, tokens: Mapping[str, Tensor]) -> Tensor:
        steps = len(tokens[target])
        residual = self._fused.residual[target][source](
            _from_plain(tokens[target]), _from_plain(tokens[source]), steps, False
        )
        return _to_plain(self._fused.residual_values(residual, steps))

    def mlp(self, name: str, x: Tensor) -> Tensor:
        values = _from_plain(x)
        return _to_plain(values + self._fused.mlp[name](values, len(x)))


def _channels_last(x: Tensor, dtype: torch.dtype) -> Tensor:
    """One sample [T, 1, C, H, W] as [T, C, H, W], channels last."""
    return x[:, 0].to(dtype).contiguous(memory_format=torch.channels_last)


def _from_plain(tokens: Tensor) -> Tensor:
    """One sample's tokens [T, 1, C, N] as [T, N, C]."""
    return tokens[:, 0].transpose(1, 2).contiguous()


def _to_plain(tokens: Tensor) -> Tensor:
    """One sample's tokens [T, N, C] as [T, 1, C, N]."""
    return tokens.transpose(1, 2)[:, None]
