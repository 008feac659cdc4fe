"""The fused network on CUDA: each stream of the network on a CUDA stream of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from model.fused.cuda.layers import PackedLayers, PackedTokens
from model.fused.cuda.tiles import Tiles
from model.fused.network import FusedNetwork
from model.network.scmrl import SCMRL
from model.output import Output

_T = TypeVar("_T")


class CUDANetwork:
    """A network whose weights are folded; it is on a CUDA device and in eval mode.

    With `half`, the weights that spikes are multiplied by are rounded to half precision. `tiles`
    are those of the layers, by default the rule's. `fused` computes a batch.
    """

    def __init__(self, network: SCMRL, *, half: bool = False, tiles: Tiles | None = None) -> None:
        layers = PackedLayers(half=half, tiles=tiles)
        self.fused: FusedNetwork[PackedTokens] = FusedNetwork(network, layers)
        device = network.head.bias.device
        self._cuda_streams = (
            [torch.cuda.Stream(device) for _ in self.fused.patch] if device.type == "cuda" else []
        )

    def __call__(self, inputs: Mapping[str, Tensor], steps: int, attention: bool) -> Output:
        """As SCMRL.forward, but frames [T or 1, B, C, H, W] are held, not repeated."""
        names = [name for name in self.fused.patch if name in inputs]
        tokens = self._run_parallel(lambda name: self.fused.patch[name](inputs[name], steps), names)
        by_name = dict(zip(names, tokens, strict=True))
        features = self._run_parallel(
            lambda name: self.fused.stream(name, by_name, steps, attention), names
        )
        return self.fused.read_out(dict(zip(names, features, strict=True)), attention)

    def _run_parallel(self, work: Callable[[str], _T], names: Sequence[str]) -> list[_T]:
        """Return the work on each stream of the network, each on a CUDA stream of its own: with few
        samples one alone does not fill the device.

        The caller keeps inputs and results until all have joined, so that their memory is not used
        for anything else before.
        """
        if not self._cuda_streams:
            return [work(name) for name in names]
        current = torch.cuda.current_stream()
        started: list[torch.cuda.Stream] = []
        results = []
        try:
            for name, stream in zip(names, self._cuda_streams, strict=False):
                stream.wait_stream(current)
                started.append(stream)
                with torch.cuda.stream(stream):
                    results.append(work(name))
        finally:
            # Also after an error: a recording cannot be ended while one of its streams has not
            # joined, and would fail with another error.
            for stream in started:
                current.wait_stream(stream)
        return results
