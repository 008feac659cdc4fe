"""The network on one device, for one caller after the other."""

from __future__ import annotations

import logging
import statistics
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor

from model.config import MAX_STEPS, Config, Precision
from model.device import find
from model.engine.cuda_graphs import BATCH_SIZES, GraphedNetwork
from model.engine.outputs import joined, on_cpu
from model.network import SCMRL, Output

log = logging.getLogger("scmrl.engine")

#: How a network is computed: layer by layer as published; fused on a CPU
#: (model/fused/cpu/network.py), in float32 or with int8 weights; or on CUDA as recorded graphs
#: (model/engine/cuda_graphs.py), of spikingjelly's neurons or of fused layers
#: (model/fused/cuda/network.py).
Path = Literal["plain", "fused", "fused-int8", "graphs", "fused-graphs"]

#: A path: inputs [T or 1, B, C, H, W] by stream on the CPU, T, and whether maps are wanted.
Compute = Callable[[Mapping[str, Tensor], int, bool], Output]

#: A faster path must give the plain one's probabilities to within this, or it is not taken.
TOLERANCE = 1e-4

#: Kernels that are compiled at most before a fast path has an answer.
_KERNELS = 12

#: Samples, rounds and time steps by which paths of one device are timed against each other.
_TIMED, _ROUNDS, _STEPS = 8, 5, 4

#: Parts that a device must have had memory for before larger ones are tried again.
_FITTED = 100

#: What `Engine.run` can be asked to explain beside its logits.
EXPLAINS = frozenset({"attention"})


class Engine:
    """Runs a network on one device; any number of threads may call it.

    The network is moved there and put in eval mode: it is the engine's from then on. `device`
    is "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:N"; on a CPU it is computed by
    `threads`, by default as many as torch has where the engine is made. Raises RuntimeError where
    the device is not there.
    """

    def __init__(self, network: SCMRL, device: str = "auto", threads: int | None = None) -> None:
        self._device = find(device)
        self._threads = threads or torch.get_num_threads()
        self._network = network.to(self._device).eval()
        # One run at a time: each takes all cores (or the GPU) anyway, and two at once would
        # hold twice the memory.
        self._lock = threading.Lock()
        self._compute: Compute = self._plain
        self._path: Path = "plain"
        self._steps = _STEPS  # that the path was prepared for
        self._most = sys.maxsize  # samples at a time that the device has memory for
        self._fitted = 0  # parts of that many since it was last changed
        self._shortages = 0

    @property
    def path(self) -> Path:
        """How it is computed now."""
        return self._path

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self._device

    @property
    def shortages(self) -> int:
        """How often the device was out of memory, after which batches are run in smaller parts
        for a while."""
        return self._shortages

    @property
    def config(self) -> Config:
        """The network's configuration."""
        return self._network.config

    def run(
        self,
        inputs: Mapping[str, Tensor],
        steps: int | None = None,
        explain: Collection[str] = (),
    ) -> Output:
        """The network's output, on the CPU, for `inputs` [T or 1, B, C, H, W] by stream.

        A stream of one step is repeated for `steps` time steps, by default as many as the
        longest stream has, at most MAX_STEPS. `explain` may hold "attention". Raises ValueError,
        naming the stream, for inputs that are not the network's.
        """
        unknown = set(explain) - EXPLAINS
        if unknown:
            raise ValueError(f"explain {sorted(unknown)}: can be {sorted(EXPLAINS)}")
        steps = self._checked(inputs, steps)
        given = {name: x.to(torch.float32) for name, x in inputs.items()}
        with self._lock, computing(self._device):
            return self._in_parts(given, steps, "attention" in explain)

    def fuse(self, precision: Precision = "float32", steps: int = _STEPS) -> bool:
        """Change over to the fast path between two runs; False where there is none.

        That is "fused" on CPUs, and on CUDA whichever of "fused-graphs" and "graphs" is the faster
        there. With "int8" it is "fused-int8", whose accuracy has to be measured. The first time,
        kernels are compiled, which takes some seconds, and kept on disk, or in memory alone where
        that cannot be written. On CUDA, runs of `steps` time steps are prepared for.
        """
        if self._device.type == "cpu":
            return self.take(["fused-int8" if precision == "int8" else "fused"], steps)
        if precision == "int8":
            log.warning("int8 is for CPUs: not taken on %s", self._device)
            return False
        return self.take(["fused-graphs", "graphs"], steps)

    def take(self, paths: Sequence[Path], steps: int = _STEPS) -> bool:
        """Change over to the fastest of `paths` here, as `fuse` does; False where none can be
        prepared, or gives the plain path's answers (what is asked of those in float32)."""
        found: dict[Path, Compute] = {}
        for path in paths:
            fast = self._prepared(path, steps)
            if fast is not None:
                found[path] = fast
        if not found:
            return False
        with self._lock:
            self._path = self._fastest(found, steps)
            self._compute, self._steps = found[self._path], steps
        return True

    def renewed(self) -> Engine:
        """Another engine of this network on its device and path, for where this one is lost.

        It has been run once, for nobody: raises what that raises where the device still fails.
        """
        other = Engine(deepcopy(self._network), str(self._device), self._threads)
        other._shortages = self._shortages
        if self._path != "plain":
            other.take([self._path], self._steps)
        other.warm(1, [1])
        return other

    def _prepared(self, path: Path, steps: int) -> Compute | None:
        """A faster path that gives the plain one's answers; None where it cannot be taken."""
        try:
            with computing(self._device):
                fast = self._made(path, steps)
                # A recording may not be disturbed by a run; a compiler may.
                with self._lock if isinstance(fast, GraphedNetwork) else nullcontext():
                    if isinstance(fast, GraphedNetwork):
                        fast.record(steps)
                    difference = self._difference_once_compiled(fast)
        except Exception:  # a compiler's errors are many, and the plain path is there
            log.exception("the path %s cannot be prepared: not taken", path)
            return None
        if difference > TOLERANCE and path != "fused-int8":
            log.warning("the path %s is off by %.1e in probability: not taken", path, difference)
            return None
        return fast

    def _made(self, path: Path, steps: int) -> Compute:
        """A path whose kernels for CUDA are compiled."""
        if path == "graphs":
            return GraphedNetwork(self._network, self._forward)
        if path == "fused-graphs":
            from model.fused.cuda.network import CUDANetwork

            fused = CUDANetwork(self._network)
            for batch in (1, BATCH_SIZES[-1]):
                fused(self._stills(batch, self._device), steps, True)
            return GraphedNetwork(self._network, fused)
        from model.fused.cpu.network import CPUNetwork

        return CPUNetwork(self._network, self._threads, int8=path == "fused-int8")

    def _fastest(self, found: Mapping[Path, Compute], steps: int) -> Path:
        """The path that is the fastest here; of several, they are timed in turns."""
        if len(found) == 1:
            return next(iter(found))
        stills = self._stills(_TIMED)
        took: dict[Path, list[float]] = {path: [] for path in found}
        with computing(self._device):
            for _ in range(_ROUNDS):
                for path, compute in found.items():
                    started = time.perf_counter()
                    compute(stills, steps, False)
                    took[path].append(time.perf_counter() - started)
        medians = {path: 1000 * statistics.median(times) for path, times in took.items()}
        told = ", ".join(f"{path} {median:.2f} ms" for path, median in medians.items())
        log.info("a batch of %d on %s: %s", _TIMED, self._device, told)
        return min(medians, key=lambda path: medians[path])

    def _in_parts(self, inputs: Mapping[str, Tensor], steps: int, attention: bool) -> Output:
        """The whole batch, or as many samples at a time as the device has memory for."""
        batch = next(iter(inputs.values())).shape[1]
        outputs: list[Output] = []
        done = 0
        while done < batch:
            count = min(self._most, batch - done)
            part = {name: x.narrow(1, done, count) for name, x in inputs.items()}
            output = self._attempt(part, steps, attention)
            if output is not None:
                outputs.append(output)
                done += count
                self._grow(count)
                continue
            if count == 1:
                raise MemoryError(f"{self._device} has too little memory for one sample")
            self._most, self._fitted = count // 2, 0
            log.warning("%s is out of memory: batches of %d", self._device, self._most)
        return joined(outputs)

    def _grow(self, count: int) -> None:
        """Try larger parts again, some time after the device was out of memory."""
        if count < self._most:
            return
        self._fitted += 1
        if self._fitted >= _FITTED:
            self._most, self._fitted = 2 * self._most, 0

    def _attempt(self, inputs: Mapping[str, Tensor], steps: int, attention: bool) -> Output | None:
        """The output on the CPU; None where the device is out of memory."""
        try:
            return self._compute(inputs, steps, attention)
        except torch.OutOfMemoryError:
            self._shortages += 1  # what the attempt held is free once this block has ended
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _plain(self, inputs: Mapping[str, Tensor], steps: int, attention: bool) -> Output:
        moved = {name: x.to(self._device) for name, x in inputs.items()}
        with _torch_threads(self._threads):
            return on_cpu(self._forward(moved, steps, attention))

    def _forward(self, inputs: Mapping[str, Tensor], steps: int, attention: bool) -> Output:
        """The network, of inputs on its device."""
        # Repeated as late as this: a repetition is a view and takes no memory.
        held = {name: x.expand(steps, *x.shape[1:]) for name, x in inputs.items()}
        output: Output = self._network(held, attention=attention)
        return output

    def _difference_once_compiled(self, other: Compute) -> float:
        """`_difference`, again for as long as kernels are compiled that no disk takes.

        numba has a kernel in memory before it fails to write it. Raises OSError in the end.
        """
        for _ in range(_KERNELS):
            try:
                return self._difference(other)
            except OSError as exc:
                log.warning("a compiled kernel cannot be kept (NUMBA_CACHE_DIR): %s", exc)
        return self._difference(other)

    def _difference(self, other: Compute) -> float:
        """Greatest difference of a probability between another path and the plain one."""
        generator = torch.Generator().manual_seed(0)
        inputs = {
            name: torch.rand((2, 2, s.channels, *s.size), generator=generator)
            for name, s in self._network.config.streams.items()
        }
        ours, theirs = (path(inputs, 2, True).logits.softmax(1) for path in (self._plain, other))
        return float((ours - theirs).abs().max())

    def warm(self, steps: int, batch_sizes: Iterable[int]) -> None:
        """Run once for each batch size, so that no caller waits for what the first run sets up."""
        for batch in batch_sizes:
            self.run(self._stills(batch), steps, explain=EXPLAINS)

    def _stills(self, batch: int, device: torch.device | None = None) -> dict[str, Tensor]:
        """Inputs [1, B, C, H, W] of all streams, by default on the CPU."""
        return {
            name: torch.zeros(1, batch, stream.channels, *stream.size, device=device)
            for name, stream in self._network.config.streams.items()
        }

    def _checked(self, inputs: Mapping[str, Tensor], steps: int | None) -> int:
        """The number of time steps, once all inputs have been checked."""
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
                raise ValueError(f"{name}: no such stream, there are {sorted(streams)}")
            frame = (streams[name].channels, *streams[name].size)
            if x.dim() != 5 or x.shape[2:] != frame:
                raise ValueError(f"{name}: {list(x.shape)}, but [T, B, C, H, W] ends in {frame}")
            if len(x) not in (1, steps):
                raise ValueError(f"{name}: {len(x)} time steps, but 1 or {steps} are needed")
            if x.shape[1:2] != batch:
                raise ValueError(f"{name}: {x.shape[1]} samples, but another has {batch[0]}")
        return steps


def devices(name: str) -> list[str]:
    """Where a service runs a network: "auto" and "cuda" are every CUDA device that is there.

    Raises DeviceError where it is not there.
    """
    device = find(name)
    if device.type != "cuda" or device.index is not None:
        return [str(device)]
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """torch computes by so many threads; how many it has is each thread's own matter."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def computing(device: torch.device) -> Iterator[None]:
    """Nothing is kept for gradients; on CUDA the device is the current one, which Triton launches
    on, and cuDNN's convolutions are float32: TF32 moves spikes that are near their threshold."""
    with torch.inference_mode():
        if device.type != "cuda":
            yield
            return
        with torch.cuda.device(device), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
