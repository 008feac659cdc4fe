"""The paths of a device: each is built, compared with the plain network, and timed."""

from __future__ import annotations

import logging
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from model.config import EnginePath, Precision
from model.engine.cuda_graphs import BATCH_SIZES, Forward, GraphedNetwork
from model.engine.inputs import hold, zeros
from model.engine.plain import PlainNetwork, inference_context
from model.network import SCMRL

if TYPE_CHECKING:
    from model.fused.cuda.tiles import Tiles

log = logging.getLogger("scmrl.engine")

#: The paths of each kind of device at each precision that it has, of which the fastest is used.
PATHS: dict[str, dict[Precision, tuple[EnginePath, ...]]] = {
    "cpu": {"float32": ("fused",), "int8": ("fused-int8",)},
    "cuda": {"float32": ("fused-graphs", "graphs"), "float16": ("fused-half-graphs",)},
}
#: Paths that need not give the plain path's outputs: their accuracy has to be measured.
_REDUCED_PRECISION: frozenset[EnginePath] = frozenset({"fused-int8", "fused-half-graphs"})

#: Largest difference of a probability from the plain path's, in the median sample, at which a
#: float32 path is still used; and batches that are compared, their samples and time steps.
TOLERANCE = 1e-4
_COMPARED_BATCHES, _COMPARED_SAMPLES, _COMPARED_STEPS = 4, 2, 2

#: Maximum number of kernels that a path compiles at its first run.
_MAX_KERNELS = 64

#: Samples and rounds with which the paths of a device are timed against each other.
_TIMING_BATCH, _TIMING_ROUNDS = 8, 5


class Paths:
    """The paths that can run a network, which is in eval mode on its device.

    On a CPU they use `threads` threads. Hold `lock` while running the network, since no run on the
    device may happen during the recording of a CUDA graph.
    """

    def __init__(self, network: SCMRL, threads: int, lock: threading.Lock) -> None:
        self.plain = PlainNetwork(network, threads)
        self._network = network
        self._device = network.head.bias.device
        self._threads = threads
        self._lock = lock
        #: Tiles of the fused path's layers on CUDA, once it has been built.
        self.tiles: Tiles | None = None

    def prepare(self, paths: Sequence[EnginePath], steps: int) -> dict[EnginePath, Forward]:
        """Return those of `paths` that can be used, prepared for runs of `steps` time steps.

        Float32 paths must agree with the plain path; the accuracy of others has to be measured.
        """
        config = self._network.config
        if not config.fuses_as_scmrl:
            unusable = [path for path in paths if path.startswith("fused")]
            log.info(
                "%s not used: computed for S-CMRL alone, and this is fusion %s; other paths remain",
                ", ".join(unusable) or "nothing", config.fusion,
            )  # fmt: skip
            paths = [path for path in paths if path not in unusable]
        prepared = {path: self._prepare(path, steps) for path in paths}
        return {path: forward for path, forward in prepared.items() if forward is not None}

    def fastest(self, prepared: Mapping[EnginePath, Forward], steps: int) -> EnginePath:
        """Return the path with the least median time; their runs alternate."""
        if len(prepared) == 1:
            return next(iter(prepared))
        inputs = zeros(self._network.config, _TIMING_BATCH)
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

    def tune(self, is_over: Callable[[], bool]) -> bool:
        """Measure tiles for the layers of the fused path on CUDA, until `is_over`; continue where
        an earlier measurement of this card ended.

        Return whether layers have other tiles now: a path that is prepared afterwards has them.
        They are kept on disk. Before the fused path has been prepared there is nothing to measure.
        """
        if self.tiles is None:
            return False
        from model.fused.cuda import tile_measurement
        from model.fused.cuda.tile_cache import TileCache
        from model.fused.cuda.tiles import by_importance

        tiles, cache = self.tiles, TileCache(self._device)
        used = {shape: tiles.tile(shape) for shape in tiles.seen}
        tiles.measured.update(cache.read())  # those of another process
        shapes = by_importance(tiles.unfinished)
        with inference_context(self._device):
            measured = tile_measurement.measure_tiles(
                shapes, tiles.measured, self._device, tile_measurement.timer(self._device),
                self._lock, is_over,
            )  # fmt: skip
            if self._device.type == "cuda":
                with self._lock:  # no run may happen during a recording
                    torch.cuda.empty_cache()
        if measured:
            tiles.measured.update(measured)
            cache.write(measured)
        changed = sum(tiles.tile(shape) != tile for shape, tile in used.items())
        log.info(
            "tiles of %d layer shapes on %s were measured, %d are unfinished; %d of %d change",
            len(measured), self._device, len(tiles.unfinished), changed, len(used),
        )  # fmt: skip
        return changed > 0

    def _prepare(self, path: EnginePath, steps: int) -> Forward | None:
        try:
            with inference_context(self._device):
                forward = self._build(path, steps)
                # No run may happen during a recording; compilation does not need the lock.
                if isinstance(forward, GraphedNetwork):
                    forward.record(steps, self._lock)
                with self._lock if isinstance(forward, GraphedNetwork) else nullcontext():
                    difference = self._compile_and_compare(forward)
        except Exception:  # compilers raise many kinds of errors; the plain path remains usable
            log.exception("path %s is not used: preparing it failed", path)
            return None
        if difference > TOLERANCE and path not in _REDUCED_PRECISION:
            log.warning(
                "path %s is not used: its probabilities differ from the plain path's by %.1e in "
                "the median sample (tolerance %.0e)", path, difference, TOLERANCE,
            )  # fmt: skip
            return None
        return forward

    def _build(self, path: EnginePath, steps: int) -> Forward:
        """Return a path. CUDA kernels are compiled here, as a recording does not allow it."""
        if path == "graphs":
            return GraphedNetwork(self._network, self.plain.forward)
        if path in ("fused-graphs", "fused-half-graphs"):
            from model.fused.cuda.network import CUDANetwork

            half = path == "fused-half-graphs"
            fused = CUDANetwork(self._network, half=half, tiles=self.cuda_tiles())
            # Kernels differ by tiles, which differ by batch, by whether frames are held, and by the
            # type of packed spikes. What is missing is compiled while requests wait.
            runs = [(batch, steps) for batch in BATCH_SIZES]
            for batch, count in [*runs, (_COMPARED_SAMPLES, _COMPARED_STEPS)]:
                held = zeros(self._network.config, batch, self._device)
                for inputs in (held, hold(held, count)):
                    fused(inputs, count, True)
            return GraphedNetwork(self._network, fused)
        from model.fused.cpu.network import CPUNetwork

        return CPUNetwork(self._network, self._threads, int8=path == "fused-int8")

    def cuda_tiles(self) -> Tiles:
        """Return the tiles of the fused path on CUDA, at first those that are cached on disk."""
        from model.fused.cuda.tile_cache import TileCache
        from model.fused.cuda.tiles import Tiles

        if self.tiles is None:
            self.tiles = Tiles(TileCache(self._device).read())
        return self.tiles

    def _compile_and_compare(self, forward: Forward) -> float:
        """Return `_difference`, again after each compiled kernel that cannot be written to disk.

        numba has compiled a kernel before it fails to cache it. Raises OSError after _MAX_KERNELS.
        """
        for _ in range(_MAX_KERNELS):
            try:
                if self._device.type == "cpu":
                    from model.fused.cpu.network import CPUNetwork

                    if isinstance(forward, CPUNetwork):
                        forward.compile_kernels()
                        # Tensors of one step and one token are contiguous where others are not,
                        # and numba compiles kernels for them.
                        forward(zeros(self._network.config, 1), 1, False)
                return self._difference(forward)
            except OSError as exc:
                log.warning("a compiled kernel cannot be cached (NUMBA_CACHE_DIR): %s", exc)
        return self._difference(forward)

    def _difference(self, forward: Forward) -> float:
        """Return the largest difference of a probability between another path and the plain one, in
        the median sample of noise.

        Another order of sums moves a spike at its threshold in a sample now and then, and its
        probabilities by more than rounding does; a fault shows in most samples.
        """
        generator = torch.Generator().manual_seed(0)
        differences: list[float] = []
        for _ in range(_COMPARED_BATCHES):
            inputs = {
                name: torch.rand(
                    (_COMPARED_STEPS, _COMPARED_SAMPLES, s.channels, *s.size), generator=generator
                )
                for name, s in self._network.config.streams.items()
            }
            expected, actual = (
                path(inputs, _COMPARED_STEPS, True).logits.softmax(1)
                for path in (self.plain, forward)
            )
            differences += (expected - actual).abs().amax(1).tolist()
        return statistics.median(differences)
