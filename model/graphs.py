"""The network on CUDA as recorded graphs: one launch instead of hundreds a time step.

A spiking network is many small kernels, and at small batches a GPU waits for the next to be
launched. A graph is recorded once for each batch size, T and kind of inputs, and replayed; the
neurons in it are spikingjelly's fused ones. A batch is filled up to the next recorded size with
samples that nobody asked for, which changes no other sample's answer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.network import SCMRL, Output
from model.outputs import on_cpu, sliced

#: Batch sizes that graphs are recorded for; the engine runs a larger batch in parts.
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
LARGEST = BATCH_SIZES[-1]
#: Most graphs that are kept: each holds its inputs and activations.
_MOST = 24
#: Runs before a recording, in which libraries choose kernels and allocate.
_WARM = 3


@dataclass(frozen=True)
class _Key:
    """What a graph is recorded for; `held` streams have one step for all T."""

    batch: int
    steps: int
    attention: bool
    held: tuple[tuple[str, bool], ...]


class _Graph:
    """One recording, with the memory that it reads and writes."""

    def __init__(self, network: SCMRL, key: _Key, pool: Any, copies: torch.cuda.Stream) -> None:
        device = next(network.parameters()).device
        streams = network.config.streams
        self._copies = copies
        self._staged: dict[str, Tensor] = {}  # pinned, on the CPU
        self._inputs: dict[str, Tensor] = {}
        for name, held in key.held:
            shape = (
                1 if held else key.steps, key.batch, streams[name].channels, *streams[name].size
            )  # fmt: skip
            self._staged[name] = torch.zeros(shape, pin_memory=True)
            self._inputs[name] = torch.zeros(shape, device=device)
        self._graph = torch.cuda.CUDAGraph()
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(_WARM):
                _forward(network, self._inputs, key)
        torch.cuda.current_stream(device).wait_stream(side)
        with torch.cuda.graph(self._graph, pool=pool):
            self._output = _forward(network, self._inputs, key)

    def run(self, inputs: Mapping[str, Tensor]) -> Output:
        """Replay for inputs [T or 1, b, C, H, W] of a batch that may be smaller, on the CPU."""
        batch = next(iter(inputs.values())).shape[1]
        current = torch.cuda.current_stream()
        self._copies.wait_stream(current)
        with torch.cuda.stream(self._copies):
            for name, x in inputs.items():
                self._staged[name][:, :batch].copy_(x)
                self._inputs[name].copy_(self._staged[name], non_blocking=True)
        current.wait_stream(self._copies)
        self._graph.replay()
        # The next replay overwrites what the graph holds.
        return on_cpu(sliced(self._output, 0, batch))


class GraphedNetwork:
    """Computes as the network does, for inputs on the CPU; for one caller after the other.

    `network` is on a CUDA device and in eval mode.
    """

    def __init__(self, network: SCMRL) -> None:
        self._network = network
        self._graphs: OrderedDict[_Key, _Graph] = OrderedDict()
        self._device = next(network.parameters()).device
        self._pool = torch.cuda.graph_pool_handle()
        self._copies = torch.cuda.Stream(self._device)

    def __call__(self, inputs: Mapping[str, Tensor], steps: int, attention: bool) -> Output:
        """As SCMRL.forward, for frames [T or 1, B, C, H, W] of at most LARGEST samples."""
        batch = next(iter(inputs.values())).shape[1]
        size = next(size for size in BATCH_SIZES if size >= batch)
        held = tuple((name, len(x) == 1) for name, x in sorted(inputs.items()))
        key = _Key(size, steps, attention, held)
        with torch.cuda.device(self._device):
            if key not in self._graphs:
                while len(self._graphs) >= _MOST:
                    self._graphs.popitem(last=False)
                self._graphs[key] = _Graph(self._network, key, self._pool, self._copies)
            self._graphs.move_to_end(key)
            return self._graphs[key].run(inputs)


def _forward(network: SCMRL, inputs: Mapping[str, Tensor], key: _Key) -> Output:
    repeated = {name: x.expand(key.steps, *x.shape[1:]) for name, x in inputs.items()}
    output: Output = network(repeated, attention=key.attention)
    return output
