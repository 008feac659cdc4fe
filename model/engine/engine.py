"""The network on one device, for any number of threads."""

from __future__ import annotations

import logging
import statistics
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy

import torch
from torch import Tensor

from model.config import MAX_STEPS, Config, EnginePath, Precision
from model.device import resolve_device
from model.engine.cuda_graphs import BATCH_SIZES, Forward, GraphedNetwork
from model.engine.outputs import concatenate, to_cpu
from model.network import SCMRL, Output

log = logging.getLogger("scmrl.engine")

#: Largest difference of a probability from the plain path's at which a float32 path is still used.
TOLERANCE = 1e-4

#: Maximum number of kernels that a path compiles at its first run.
_MAX_KERNELS = 12

#: Samples and rounds with which the paths of a device are timed against each other.
_TIMING_BATCH, _TIMING_ROUNDS = 8, 5
#: Default number of time steps for which a path is prepared.
_STEPS = 4

#: Runs at a reduced batch size after which a larger one is tried again.
_RUNS_BEFORE_GROWTH = 100

#: Values of `explain` in `Engine.run`.
EXPLAINS = frozenset({"attention"})


class Engine:
    """Runs a network on one device; any number of threads may call it.

    The network is moved there and put in eval mode, and must not be changed afterwards. `device` is
    "auto" (CUDA where available), "cpu", "cuda" or "cuda:N". On a CPU it uses `threads` threads, by
    default torch's number in the calling thread. A batch of more than `max_batch` samples is run in
    parts. Raise RuntimeError where the device is not available.
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
        self._network = network.to(self._device).eval()
        # One run at a time: each uses all cores (or the GPU) anyway, and two would need twice the
        # memory.
        self._lock = threading.Lock()
        self._compute: Forward = self._plain
        self._path: EnginePath = "plain"
        self._steps = _STEPS  # of the path's preparation
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
    def out_of_memory_count(self) -> int:
        """How often the device was out of memory; batches are then run in smaller parts."""
        return self._out_of_memory_count

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
        """Return the network's output, on the CPU, for `inputs` [T or 1, B, C, H, W] by stream.

        A stream of one step is repeated for `steps` time steps, by default those of the longest
        stream, at most MAX_STEPS. `explain` may hold "attention". Raise ValueError, naming the
        stream, for inputs that do not fit the network.
        """
        unknown = set(explain) - EXPLAINS
        if unknown:
            raise ValueError(f"explain {sorted(unknown)}: can be {sorted(EXPLAINS)}")
        steps = self._check(inputs, steps)
        floats = {name: x.to(torch.float32) for name, x in inputs.items()}
        with self._lock, inference_context(self._device):
            return self._run_in_parts(floats, steps, "attention" in explain)

    def fuse(self, precision: Precision = "float32", steps: int = _STEPS) -> bool:
        """Switch to the fast path, between two runs; return False where none can be used.

        That is "fused" on CPUs, and on CUDA the faster of "fused-graphs" and "graphs". "int8" is
        "fused-int8", whose accuracy has to be measured. At the first call kernels are compiled,
        which takes seconds, and cached on disk where possible. On CUDA, runs of `steps` time
        steps are recorded.
        """
        if self._device.type == "cpu":
            return self.use_fastest(["fused-int8" if precision == "int8" else "fused"], steps)
        if precision == "int8":
            log.warning("int8 is not used on %s: only CPUs have it", self._device)
            return False
        return self.use_fastest(["fused-graphs", "graphs"], steps)

    def use_fastest(self, paths: Sequence[EnginePath], steps: int = _STEPS) -> bool:
        """Switch to the fastest of `paths`, as `fuse` does.

        Return False where none can be prepared; float32 paths must give the plain path's outputs.
        """
        prepared: dict[EnginePath, Forward] = {}
        for path in paths:
            forward = self._prepare(path, steps)
            if forward is not None:
                prepared[path] = forward
        if not prepared:
            return False
        with self._lock:
            self._path = self._fastest(prepared, steps)
            self._compute, self._steps = prepared[self._path], steps
        return True

    def renew(self) -> Engine:
        """Return another engine of this network, device and path, to replace a lost one.

        It is run once: raise what that raises where the device still fails.
        """
        other = Engine(deepcopy(self._network), str(self._device), self._threads, self.max_batch)
        other._out_of_memory_count = self._out_of_memory_count
        if self._path != "plain":
            other.use_fastest([self._path], self._steps)
        other.warm_up(1, [1])
        return other

    def _prepare(self, path: EnginePath, steps: int) -> Forward | None:
        """Return a path that gives the plain path's outputs; None where there is none."""
        try:
            with inference_context(self._device):
                forward = self._build(path, steps)
                # A recording must not be disturbed by a run; a compiler may.
                with self._lock if isinstance(forward, GraphedNetwork) else nullcontext():
                    if isinstance(forward, GraphedNetwork):
                        forward.record(steps)
                    difference = self._compile_and_compare(forward)
        except Exception:  # compilers raise many kinds, and the plain path is there
            log.exception("path %s is not used: preparing it failed", path)
            return None
        if difference > TOLERANCE and path != "fused-int8":
            log.warning(
                "path %s is not used: its probabilities differ from the plain path's by up to %.1e "
                "(tolerance %.0e)", path, difference, TOLERANCE,
            )  # fmt: skip
            return None
        return forward

    def _build(self, path: EnginePath, steps: int) -> Forward:
        """Return a path; CUDA's kernels are compiled, as that may not happen while recording."""
        if path == "graphs":
            return GraphedNetwork(self._network, self._forward)
        if path == "fused-graphs":
            from model.fused.cuda.network import CUDANetwork

            fused = CUDANetwork(self._network)
            for batch in (1, BATCH_SIZES[-1]):
                fused(self._zeros(batch, self._device), steps, True)
            return GraphedNetwork(self._network, fused)
        from model.fused.cpu.network import CPUNetwork

        return CPUNetwork(self._network, self._threads, int8=path == "fused-int8")

    def _fastest(self, prepared: Mapping[EnginePath, Forward], steps: int) -> EnginePath:
        """Return the path with the least median time; several are timed in turns."""
        if len(prepared) == 1:
            return next(iter(prepared))
        inputs = self._zeros(_TIMING_BATCH)
        seconds: dict[EnginePath, list[float]] = {path: [] for path in prepared}
        with inference_context(self._device):
            for _ in range(_TIMING_ROUNDS):
                for path, forward in prepared.items():
                    started = time.perf_counter()
                    forward(inputs, steps, False)
                    seconds[path].append(time.perf_counter() - started)
        medians = {path: 1000 * statistics.median(times) for path, times in seconds.items()}
        listed = ", ".join(f"{path} {median:.2f} ms" for path, median in medians.items())
        log.info("median time of a batch of %d on %s: %s", _TIMING_BATCH, self._device, listed)
        return min(medians, key=lambda path: medians[path])

    def _run_in_parts(self, inputs: Mapping[str, Tensor], steps: int, attention: bool) -> Output:
        """Run the whole batch, or as many samples at a time as the device has memory for."""
        batch = next(iter(inputs.values())).shape[1]
        outputs: list[Output] = []
        done = 0
        while done < batch:
            count = min(self._part, batch - done)
            part = {name: x.narrow(1, done, count) for name, x in inputs.items()}
            output = self._try_run(part, steps, attention)
            if output is not None:
                outputs.append(output)
                done += count
                self._grow(count)
                continue
            if count == 1:
                raise MemoryError(f"{self._device} does not have enough memory for one sample")
            self._part, self._full_runs = count // 2, 0
            log.warning(
                "%s is out of memory: batches are limited to %d samples", self._device, self._part
            )
        return concatenate(outputs)

    def _grow(self, count: int) -> None:
        """Double the batch size some runs after the device was out of memory."""
        if count < self._part:
            return
        self._full_runs += 1
        if self._full_runs >= _RUNS_BEFORE_GROWTH:
            self._part, self._full_runs = min(2 * self._part, self.max_batch), 0

    def _try_run(self, inputs: Mapping[str, Tensor], steps: int, attention: bool) -> Output | None:
        """Return the output on the CPU; None where the device is out of memory."""
        try:
            return self._compute(inputs, steps, attention)
        except torch.OutOfMemoryError:
            self._out_of_memory_count += 1  # its tensors are freed at the end of this block
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    def _plain(self, inputs: Mapping[str, Tensor], steps: int, attention: bool) -> Output:
        moved = {name: x.to(self._device) for name, x in inputs.items()}
        with _torch_threads(self._threads):
            return to_cpu(self._forward(moved, steps, attention))

    def _forward(self, inputs: Mapping[str, Tensor], steps: int, attention: bool) -> Output:
        """Run the plain network on inputs on its device."""
        # Repeated on the device, where it is a view and takes no memory.
        repeated = {name: x.expand(steps, *x.shape[1:]) for name, x in inputs.items()}
        output: Output = self._network(repeated, attention=attention)
        return output

    def _compile_and_compare(self, other: Forward) -> float:
        """Return `_difference`, again after each compiled kernel that cannot be written to disk.

        numba has a kernel in memory before it fails to cache it. Raise OSError after _MAX_KERNELS.
        """
        for _ in range(_MAX_KERNELS):
            try:
                return self._difference(other)
            except OSError as exc:
                log.warning("a compiled kernel cannot be cached (NUMBA_CACHE_DIR): %s", exc)
        return self._difference(other)

    def _difference(self, other: Forward) -> float:
        """Return the largest difference of a probability between another path and the plain one."""
        generator = torch.Generator().manual_seed(0)
        inputs = {
            name: torch.rand((2, 2, s.channels, *s.size), generator=generator)
            for name, s in self._network.config.streams.items()
        }
        expected, actual = (
            path(inputs, 2, True).logits.softmax(1) for path in (self._plain, other)
        )
        return float((expected - actual).abs().max())

    def warm_up(self, steps: int, batch_sizes: Iterable[int]) -> None:
        """Run once at each batch size, so that no caller waits for the set-up of a first run."""
        for batch in batch_sizes:
            self.run(self._zeros(batch), steps, explain=EXPLAINS)

    def _zeros(self, batch: int, device: torch.device | None = None) -> dict[str, Tensor]:
        """Return inputs [1, B, C, H, W] of all streams, by default on the CPU."""
        return {
            name: torch.zeros(1, batch, stream.channels, *stream.size, device=device)
            for name, stream in self._network.config.streams.items()
        }

    def _check(self, inputs: Mapping[str, Tensor], steps: int | None) -> int:
        """Check all inputs, and return the number of time steps. Raise ValueError."""
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

    Raise DeviceError where there is none.
    """
    device = resolve_device(name)
    if device.type != "cuda" or device.index is not None:
        return [str(device)]
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """Set torch's number of threads, which is a property of the calling thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def inference_context(device: torch.device) -> Iterator[None]:
    """Disable gradients. On CUDA, make the device the current one, which Triton launches on, and
    cuDNN's convolutions float32: TF32 moves spikes that are near their threshold."""
    with torch.inference_mode():
        if device.type != "cuda":
            yield
            return
        with torch.cuda.device(device), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
