"""The network on CUDA as recorded graphs: one launch per batch instead of one per kernel.

A spiking network is many small kernels, and at small batches a GPU waits for the next to be
launched. A graph is recorded once for each batch size, T and kind of inputs, and replayed. A batch
is padded to the next recorded size, which changes no output of its samples. A batch larger than
any recorded one is run in parts: while one is computed the next is copied to the device, from
pinned memory and on a stream of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from model.cuda_error import is_out_of_memory
from model.engine.outputs import concatenate, flatten, slice_samples, unflatten
from model.network import SCMRL, Output

_T = TypeVar("_T")

#: A forward pass: inputs [T or 1, B, C, H, W] by stream, T, and whether to return maps.
Forward = Callable[[Mapping[str, Tensor], int, bool], Output]

#: Batch sizes that graphs are recorded for. Larger ones would be no faster per sample on a GPU that
#: is already full, and would not overlap with copies.
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
#: Maximum number of graphs in memory: each holds its inputs and activations.
_MAX_GRAPHS = 24
#: Runs before a recording, in which kernels are compiled and selected.
_WARM_UP = 2


@dataclass(frozen=True)
class _Key:
    """The properties of a batch that a graph is recorded for.

    `single_step`: by stream, whether its input has one step for all T.
    """

    batch: int
    steps: int
    attention: bool
    single_step: tuple[tuple[str, bool], ...]


def _record(
    graph: torch.cuda.CUDAGraph, pool: Any, stream: torch.cuda.Stream, work: Callable[[], _T]
) -> _T:
    """Record work on a stream into a graph, and return what it returns.

    Raises the error of a lack of memory where the work does, even if the recording then cannot be
    ended. The thread's current stream is the one from before in any case.
    """
    before = torch.cuda.current_stream()
    _clear_workspaces()
    try:
        # The engine of another device may allocate during the recording.
        with torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
            return work()
    except Exception as exc:
        torch.cuda.set_stream(before)  # where a recording cannot be ended, torch stays on its own
        cause: BaseException | None = exc
        while cause is not None:
            if is_out_of_memory(cause):
                raise cause from None
            cause = cause.__context__
        raise
    finally:
        _clear_workspaces()


def _clear_workspaces() -> None:
    """Free cuBLAS's workspaces, of which torch has one for each stream.

    Before a recording, so that it has one in its own memory; and after it, so that no other work
    does. Else a graph would use the workspace of another one, which frees it when it is dropped.
    """
    if hasattr(torch._C, "_cuda_clearCublasWorkspaces"):  # not without CUDA
        torch._C._cuda_clearCublasWorkspaces()


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
            for _ in range(_WARM_UP):
                forward(inputs, key.steps, key.attention)
        current.wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()

        def work() -> tuple[Output, Tensor]:
            output = forward(inputs, key.steps, key.attention)
            return output, flatten(output)

        self._output, self._flat = _record(self._graph, pool, stream, work)

    def start(self, inputs: Mapping[str, Tensor], copies: torch.cuda.Stream) -> _Replay:
        """Start to compute inputs [T or 1, b, C, H, W] on the CPU, b at most the recorded size."""
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
        flat = torch.empty(self._flat.shape, pin_memory=True)
        flat.copy_(self._flat, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(current)
        return _Replay(flat, copied, self._output, batch)


@dataclass(frozen=True)
class _Replay:
    """A replay in flight, of `batch` samples; its `flat` output is complete after `copied`."""

    flat: Tensor
    copied: torch.cuda.Event
    like: Output
    batch: int

    def output(self) -> Output:
        self.copied.synchronize()
        return slice_samples(unflatten(self.flat, self.like), 0, self.batch)


class GraphedNetwork:
    """Runs `forward`, of a network on a CUDA device, as graphs, for inputs on the CPU.

    For one caller at a time; its device must be the current one.
    """

    def __init__(self, network: SCMRL, forward: Forward) -> None:
        self._forward = forward
        self._streams = network.config.streams
        self._bias = network.head.bias.cpu()
        self._device = network.head.bias.device
        self._graphs: OrderedDict[_Key, _Graph] = OrderedDict()
        # Graphs that share a pool and a stream share the memory of their activations.
        self._pool = torch.cuda.graph_pool_handle()
        self._recordings = torch.cuda.Stream(self._device)
        self._copies = torch.cuda.Stream(self._device)

    def __call__(self, inputs: Mapping[str, Tensor], steps: int, attention: bool) -> Output:
        """As SCMRL.forward, for frames [T or 1, B, C, H, W]."""
        batch = next(iter(inputs.values())).shape[1]
        replays = []
        for first in range(0, batch, BATCH_SIZES[-1]):
            count = min(BATCH_SIZES[-1], batch - first)
            part = {name: x.narrow(1, first, count) for name, x in inputs.items()}
            graph = self._graph(self._key(part, steps, attention))
            replays.append(graph.start(part, self._copies))
        return replace(concatenate([replay.output() for replay in replays]), bias=self._bias)

    def record(self, steps: int, lock: AbstractContextManager[object]) -> None:
        """Record the graphs of all streams with one step each, at every batch size.

        `lock` is held during each recording, in which nothing else may run, and not between them.
        """
        names = tuple((name, True) for name in sorted(self._streams))
        for batch in BATCH_SIZES:
            for attention in (False, True):
                with lock:
                    self._graph(_Key(batch, steps, attention, names))

    def _key(self, inputs: Mapping[str, Tensor], steps: int, attention: bool) -> _Key:
        batch = next(iter(inputs.values())).shape[1]
        size = next(size for size in BATCH_SIZES if size >= batch)
        return _Key(
            size, steps, attention, tuple((n, len(x) == 1) for n, x in sorted(inputs.items()))
        )

    def _graph(self, key: _Key) -> _Graph:
        if key not in self._graphs:
            while len(self._graphs) >= _MAX_GRAPHS:
                self._graphs.popitem(last=False)
            self._graphs[key] = _Graph(
                self._forward, self._inputs(key), key, self._pool, self._recordings
            )
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _inputs(self, key: _Key) -> dict[str, Tensor]:
        """Allocate the inputs of a graph."""
        return {
            name: torch.zeros(
                (
                    1 if single_step else key.steps, key.batch, self._streams[name].channels,
                    *self._streams[name].size,
                ),
                device=self._device,
            )
            for name, single_step in key.single_step
        }  # fmt: skip
