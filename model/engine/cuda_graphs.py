"""The network on CUDA as recorded graphs: one launch for a batch instead of one for each kernel.

A spiking network is many small kernels, and at small batches a GPU waits for the next to be
launched. A graph is recorded once for each batch size, T and kind of inputs, and replayed. A batch
is filled up to the next recorded size with samples that nobody asked for, which changes no other
sample's answer; one that is larger than any is run in parts, and while one is computed the next is
copied to the device, from pinned memory and on a stream of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from model.engine.outputs import joined, packed, sliced, unpacked
from model.network import SCMRL, Output

#: What is recorded: inputs [T or 1, B, C, H, W] by stream on the device, T, whether maps are
#: wanted.
Forward = Callable[[Mapping[str, Tensor], int, bool], Output]

#: Batch sizes that graphs are recorded for. Twice the largest is no faster on a GPU that it fills,
#: and leaves nothing to copy meanwhile.
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
#: Most graphs that are kept: each holds its inputs and activations.
_MOST = 24
#: Runs before a recording, in which kernels are compiled and chosen.
_WARM = 2


@dataclass(frozen=True)
class _Key:
    """What a graph is recorded for; `held` streams have one step for all T."""

    batch: int
    steps: int
    attention: bool
    held: tuple[tuple[str, bool], ...]


class _Graph:
    """One recording, with the memory that it reads and writes."""

    def __init__(
        self,
        forward: Forward,
        inputs: dict[str, Tensor],
        key: _Key,
        pool: Any,
        stream: torch.cuda.Stream,
    ) -> None:
        self._inputs = inputs
        current = torch.cuda.current_stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            for _ in range(_WARM):
                forward(inputs, key.steps, key.attention)
        current.wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Another device's engine may allocate meanwhile.
        with torch.cuda.graph(self._graph, pool, stream, capture_error_mode="thread_local"):
            self._output = forward(inputs, key.steps, key.attention)
            self._packed = packed(self._output)

    def start(self, inputs: Mapping[str, Tensor], copies: torch.cuda.Stream) -> _Running:
        """Begin to compute inputs [T or 1, b, C, H, W] on the CPU, of as many samples or fewer."""
        current = torch.cuda.current_stream()
        batch = next(iter(inputs.values())).shape[1]
        with torch.cuda.stream(copies):
            moved = {
                name: torch.empty(x.shape, pin_memory=True).copy_(x).to(
                    self._inputs[name].device, non_blocking=True
                )
                for name, x in inputs.items()
            }  # fmt: skip
        current.wait_stream(copies)
        for name, x in moved.items():
            self._inputs[name][:, :batch].copy_(x)
            x.record_stream(current)
        self._graph.replay()
        answer = torch.empty(self._packed.shape, pin_memory=True)
        answer.copy_(self._packed, non_blocking=True)
        done = torch.cuda.Event()
        done.record(current)
        return _Running(answer, done, self._output, batch)


@dataclass(frozen=True)
class _Running:
    """A replay that has begun, of `batch` samples: its answer is there once it is `done`."""

    answer: Tensor
    done: torch.cuda.Event
    like: Output
    batch: int

    def output(self) -> Output:
        self.done.synchronize()
        return sliced(unpacked(self.answer, self.like), 0, self.batch)


class GraphedNetwork:
    """Computes as `forward` does with a network that is on a CUDA device, for inputs on the CPU.

    For one caller after the other, who has made the device the current one.
    """

    def __init__(self, network: SCMRL, forward: Forward) -> None:
        self._forward = forward
        self._streams = network.config.streams
        self._bias = network.head.bias.cpu()
        self._device = network.head.bias.device
        self._graphs: OrderedDict[_Key, _Graph] = OrderedDict()
        # One of each for all graphs, which then share the memory of their activations.
        self._pool = torch.cuda.graph_pool_handle()
        self._recordings = torch.cuda.Stream(self._device)
        self._copies = torch.cuda.Stream(self._device)

    def __call__(self, inputs: Mapping[str, Tensor], steps: int, attention: bool) -> Output:
        """As SCMRL.forward, for frames [T or 1, B, C, H, W]."""
        batch = next(iter(inputs.values())).shape[1]
        running = []
        for first in range(0, batch, BATCH_SIZES[-1]):
            count = min(BATCH_SIZES[-1], batch - first)
            part = {name: x.narrow(1, first, count) for name, x in inputs.items()}
            graph = self._recorded(self._key(part, steps, attention))
            running.append(graph.start(part, self._copies))
        return replace(joined([one.output() for one in running]), bias=self._bias)

    def record(self, steps: int) -> None:
        """Record what stills of all streams need, so that nobody waits for it."""
        names = tuple((name, True) for name in sorted(self._streams))
        for batch in BATCH_SIZES:
            for attention in (False, True):
                self._recorded(_Key(batch, steps, attention, names))

    def _key(self, inputs: Mapping[str, Tensor], steps: int, attention: bool) -> _Key:
        batch = next(iter(inputs.values())).shape[1]
        size = next(size for size in BATCH_SIZES if size >= batch)
        return _Key(
            size, steps, attention, tuple((n, len(x) == 1) for n, x in sorted(inputs.items()))
        )

    def _recorded(self, key: _Key) -> _Graph:
        if key not in self._graphs:
            while len(self._graphs) >= _MOST:
                self._graphs.popitem(last=False)
            self._graphs[key] = _Graph(
                self._forward, self._inputs(key), key, self._pool, self._recordings
            )
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _inputs(self, key: _Key) -> dict[str, Tensor]:
        """Memory for the inputs of a graph."""
        return {
            name: torch.zeros(
                (
                    1 if held else key.steps, key.batch, self._streams[name].channels,
                    *self._streams[name].size,
                ),
                device=self._device,
            )
            for name, held in key.held
        }  # fmt: skip
