"""The network on one device, for any number of threads."""

from __future__ import annotations

import logging
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config import MAX_STEPS, Config, EnginePath, Precision
from model.cuda_error import is_out_of_memory, recordings_may_fail
from model.device import resolve_device
from model.engine.cuda_graphs import Forward
from model.engine.device_lock import abandon_if_held, device_lock
from model.engine.inputs import noise, zeros
from model.engine.memory import Memory, memory
from model.engine.outputs import concatenate, join_operations
from model.engine.paths import PATHS, Paths
from model.engine.plain import inference_context
from model.network import SCMRL, LayerOperations, Output
from model.network.operations import count_operations

if TYPE_CHECKING:
    from model.fused.cuda.tiles import Tiles

log = logging.getLogger("scmrl.engine")

_T = TypeVar("_T")

#: Default number of time steps for which a path is prepared.
_STEPS = 4

#: Runs of each batch size that `batch_times` takes the median of.
_TIMED_RUNS = 5
#: Runs at a reduced batch size after which a larger one is tried again.
_RUNS_BEFORE_GROWTH = 100

#: Values of `explain` in `Engine.run`.
EXPLAINS = frozenset({"attention", "operations"})


class Engine:
    """Runs a network on one device; any number of threads may call it.

    The network is moved there and put in eval mode, and must not be changed afterwards. `device` is
    "auto" (CUDA where available), "cpu", "cuda" or "cuda:N". On a CPU it uses `threads` threads, by
    default torch's number in the calling thread. A batch of more than `max_batch` samples is run in
    parts. Raises RuntimeError where the device is not available, MemoryError where it lacks memory
    for the weights.
    """

    def __init__(
        self,
        network: SCMRL,
        device: str = "auto",
        threads: int | None = None,
        max_batch: int = sys.maxsize,
    ) -> None:
        self.max_batch = max_batch
        self._device = resolve_device(device)
        self._threads = threads or torch.get_num_threads()
        try:
            self._network = network.to(self._device).eval()
        except RuntimeError as exc:
            if not is_out_of_memory(exc):
                raise
            raise MemoryError(f"{self._device} lacks memory for the network's weights") from exc
        # One run at a time: each uses all cores (or the GPU) anyway, and two would need twice the
        # memory.
        self._lock = device_lock(self._network.head.bias.device)
        self._paths = Paths(self._network, self._threads, self._lock)
        self._compute: Forward = self._paths.plain
        self._path: EnginePath = "plain"
        self._steps = _STEPS  # of the path's preparation
        self._prepared_from: tuple[EnginePath, ...] = ()  # the path is the fastest of these
        self._part = max_batch  # samples per run that the device has memory for
        self._full_runs = 0  # runs of that many samples since it was last changed
        self._out_of_memory_count = 0

    @property
    def path(self) -> EnginePath:
        """The path in use."""
        return self._path

    @property
    def device(self) -> torch.device:
        """The network's device."""
        return self._device

    @property
    def tiles(self) -> Tiles | None:
        """The tiles of the fused path's layers on CUDA; None before it has been prepared."""
        return self._paths.tiles

    @property
    def out_of_memory_count(self) -> int:
        """How often the device was out of memory; batches are then run in smaller parts."""
        return self._out_of_memory_count

    @property
    def reduced_precisions(self) -> list[Precision]:
        """The precisions, other than float32, that this kind of device has."""
        return [precision for precision in PATHS[self._device.type] if precision != "float32"]

    @property
    def config(self) -> Config:
        """The network's configuration."""
        return self._network.config

    @property
    def memory(self) -> Memory | None:
        """The memory of the device; None where the system does not report it."""
        return memory(self._device)

    @property
    def is_lost(self) -> bool:
        """False: the network is in this process."""
        return False

    def allocate(self, shape: Sequence[int], dtype: str = "float32") -> NDArray[Any]:
        """Return an uninitialized array for inputs of `run`."""
        return np.empty(shape, dtype)

    def run(
        self,
        inputs: Mapping[str, Tensor],
        steps: int | None = None,
        explain: Collection[str] = (),
    ) -> Output:
        """Return the network's output, on the CPU, for `inputs` [T or 1, B, C, H, W] by stream.

        A stream of one step is repeated for `steps` time steps, by default those of the longest
        stream, at most MAX_STEPS. `explain` may hold "attention", for maps and the logits of each
        token, and "operations", for which the plain network runs as well. Raises ValueError, naming
        the stream, for inputs that do not fit the network, and MemoryError where the device lacks
        memory for a single sample.
        """
        unknown = set(explain) - EXPLAINS
        if unknown:
            raise ValueError(f"explain {sorted(unknown)}: can be {sorted(EXPLAINS)}")
        steps = self._check(inputs, steps)
        floats = {name: x.to(torch.float32) for name, x in inputs.items()}
        with self._lock, inference_context(self._device):
            output = self._run_in_parts(floats, steps, "attention" in explain)
            if "operations" in explain:
                output = replace(output, operations=self._count_operations(floats, steps))
            return output

    def fuse(self, precision: Precision = "float32", steps: int = _STEPS) -> bool:
        """Switch to the fast path, between two runs; return False where none can be used.

        That is "fused" on CPUs, and on CUDA the faster of "fused-graphs" and "graphs". CPUs have
        "int8" as well, and CUDA "float16", whose accuracy has to be measured. At the first call
        kernels are compiled, which takes seconds, and cached on disk where possible. On CUDA, runs
        of `steps` time steps are recorded.
        """
        paths = PATHS[self._device.type].get(precision)
        if paths is None:
            kinds = {"cpu": "CPUs", "cuda": "CUDA devices"}
            having = " and ".join(kinds[kind] for kind in kinds if precision in PATHS[kind])
            log.warning("%s is not used on %s: only %s have it", precision, self._device, having)
            return False
        return self.use_fastest(paths, steps)

    def use_fastest(self, paths: Sequence[EnginePath], steps: int = _STEPS) -> bool:
        """Switch to the fastest of `paths`, as `fuse` does.

        Return False where none can be prepared; float32 paths must give the plain path's outputs.
        """
        return self._switch(self._paths.prepare(paths, steps), steps)

    def _switch(self, prepared: Mapping[EnginePath, Forward], steps: int) -> bool:
        """Switch to the fastest of prepared paths; return False where there is none."""
        if not prepared:
            return False
        with self._lock:
            self._path = self._paths.fastest(prepared, steps)
            self._compute, self._steps = prepared[self._path], steps
        self._prepared_from = tuple(prepared)
        return True

    def tune(self, budget_s: float, is_stopping: Callable[[], bool] = lambda: False) -> bool:
        """Measure tiles for the fused path's layers on CUDA, and switch to a path with them.

        Call it after `fuse`. It takes about `budget_s` seconds at most, in which runs wait for
        single measurements only; what it finds is kept on disk for the next start. Return whether
        the path was made anew; where that fails, as for lack of memory, the old one stays.
        """
        if self._path == "plain":
            return False
        until = time.monotonic() + budget_s
        with recordings_may_fail():
            has_others = self._paths.tune(lambda: is_stopping() or time.monotonic() >= until)
        if not has_others:
            return False
        prepared = self._paths.prepare(self._prepared_from, self._steps)
        return self._path in prepared and self._switch(prepared, self._steps)

    def batch_times(self, steps: int, sizes: Iterable[int], longest_s: float) -> dict[int, float]:
        """Return the median seconds of a batch of each size, from the smallest one on.

        It ends at the size that takes more than `longest_s` seconds or more memory than the device
        has, which `out_of_memory_count` does not count. `max_batch` does not limit the sizes. Other
        runs wait for single batches only.
        """
        times: dict[int, float] = {}
        for size in sorted(sizes):
            inputs = noise(self.config, size)
            seconds = []
            for _ in range(_TIMED_RUNS + 1):
                with self._lock, inference_context(self._device):
                    started = time.perf_counter()
                    run = partial(self._compute, inputs, steps, False)
                    if self._run_unless_out_of_memory(run, counts=False) is None:
                        return times
                    seconds.append(time.perf_counter() - started)
                if min(seconds) > longest_s:
                    break
            times[size] = statistics.median(seconds[1:] or seconds)  # the first one warms up
            if times[size] > longest_s:
                break
        return times

    def set_max_batch(self, max_batch: int) -> None:
        """Change `max_batch`."""
        with self._lock:
            if self._part >= min(self.max_batch, max_batch):  # else memory limits it already
                self._part = max_batch
            self.max_batch = max_batch

    def renew(self) -> Engine:
        """Return another engine of this network, device and path, to replace a lost one.

        It is run once: raise what that raises where the device still fails.
        """
        abandon_if_held(self._network.head.bias.device, self._lock)
        successor = Engine(
            deepcopy(self._network), str(self._device), self._threads, self.max_batch
        )
        successor._out_of_memory_count = self._out_of_memory_count
        if self._path != "plain":
            successor.use_fastest([self._path], self._steps)
        successor.warm_up(1, [1])
        return successor

    def _run_in_parts(self, inputs: Mapping[str, Tensor], steps: int, attention: bool) -> Output:
        """Run the whole batch, or as many samples at a time as the device has memory for."""
        batch = next(iter(inputs.values())).shape[1]
        outputs: list[Output] = []
        first = 0
        while first < batch:
            count = min(self._part, batch - first)
            part = {name: x.narrow(1, first, count) for name, x in inputs.items()}
            run = partial(self._compute, part, steps, attention)
            output = self._run_unless_out_of_memory(run)
            if output is not None:
                outputs.append(output)
                first += count
                self._grow(count)
                continue
            if count == 1:
                raise self._too_little_memory()
            self._part, self._full_runs = count // 2, 0
            log.warning(
                "%s is out of memory: batches are limited to %d samples", self._device, self._part
            )
        return concatenate(outputs)

    def _count_operations(
        self, inputs: Mapping[str, Tensor], steps: int
    ) -> dict[str, LayerOperations]:
        """Count the operations of each sample, one sample at a time to save memory. Raises
        MemoryError."""
        counted = self._run_unless_out_of_memory(partial(self._count_each, inputs, steps))
        if counted is None:
            raise self._too_little_memory()
        return counted

    def _count_each(self, inputs: Mapping[str, Tensor], steps: int) -> dict[str, LayerOperations]:
        moved = {name: x.to(self._device) for name, x in inputs.items()}
        counts = []
        for index in range(next(iter(inputs.values())).shape[1]):
            sample = {name: x.narrow(1, index, 1) for name, x in moved.items()}
            counts.append(count_operations(self._network, sample, steps))
        return join_operations(counts)

    def _grow(self, count: int) -> None:
        """Double the batch size some runs after the device was out of memory."""
        if count < self._part:
            return
        self._full_runs += 1
        if self._full_runs >= _RUNS_BEFORE_GROWTH:
            self._part, self._full_runs = min(2 * self._part, self.max_batch), 0

    def _run_unless_out_of_memory(self, run: Callable[[], _T], *, counts: bool = True) -> _T | None:
        """Return what `run` returns; None where the device is out of memory, which `counts`."""
        try:
            with recordings_may_fail():
                return run()
        except RuntimeError as exc:
            if not is_out_of_memory(exc):
                raise
            self._out_of_memory_count += counts  # its tensors are freed at the end of this block
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _too_little_memory(self) -> MemoryError:
        return MemoryError(f"{self._device} does not have enough memory for one sample")

    def warm_up(self, steps: int, batch_sizes: Iterable[int]) -> None:
        """Run once at each batch size, so that no caller waits for the set-up of a first run."""
        for batch in batch_sizes:
            self.run(zeros(self.config, batch), steps, explain=("attention",))

    def _check(self, inputs: Mapping[str, Tensor], steps: int | None) -> int:
        """Check all inputs, and return the number of time steps. Raises ValueError."""
        streams = self._network.config.streams
        if not inputs:
            raise ValueError(f"no inputs: one or more of {sorted(streams)} are needed")
        longest = max(len(x) for x in inputs.values())
        steps = longest if steps is None else steps
        if not 1 <= steps <= MAX_STEPS:
            raise ValueError(f"steps {steps}: can be 1 to {MAX_STEPS}")
        batch = next(iter(inputs.values())).shape[1:2]
        for name, x in inputs.items():
            if name not in streams:
                raise ValueError(f"{name}: no such stream; the streams are {sorted(streams)}")
            frame = (streams[name].channels, *streams[name].size)
            if x.dim() != 5 or x.shape[2:] != frame:
                expected = f"expected [T, B, C, H, W] with C, H, W = {frame}"
                raise ValueError(f"{name}: shape {list(x.shape)}; {expected}")
            if len(x) not in (1, steps):
                raise ValueError(f"{name}: {len(x)} time steps; expected 1 or {steps}")
            if x.shape[1:2] != batch:
                raise ValueError(f"{name}: {x.shape[1]} samples, but another stream has {batch[0]}")
        return steps


def devices(name: str) -> list[str]:
    """Return the devices of a setting: "auto" and "cuda" are all CUDA devices.

    Raises DeviceError where there is none.
    """
    device = resolve_device(name)
    if device.type != "cuda" or device.index is not None:
        return [str(device)]
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
