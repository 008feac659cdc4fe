"""Measure which tile computes a layer fastest on this card.

Each candidate computes the same random layer as the rule's tile, and must give the same spikes but
for `_ALLOWED_FLIPS`; it is used where it is faster by more than measurements vary.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor

from model.cuda_error import is_out_of_memory
from model.fused.cuda import packed_spikes
from model.fused.cuda.packed_spikes import Weights
from model.fused.cuda.tiles import LayerShape, Measurement, Tile, candidates
from model.fused.folding import Folded

log = logging.getLogger("scmrl.engine")

#: A layer's computation, which returns its packed spikes.
Work = Callable[[], Tensor]
#: Prepares a computation, and returns a function that runs it and returns its seconds.
Timer = Callable[[Work], Callable[[], float]]

#: Share of spikes, and number in a small layer, that a tile may change: as many as the fused path
#: may differ by from the plain one.
_ALLOWED_FLIPS, _MIN_ALLOWED_FLIPS = 1e-5, 2
#: Part of the time that a tile must save to replace another: smaller ones are noise.
_GAIN = 0.03
#: Runs of each of two tiles, in turns, of which the medians are compared.
_ROUNDS = 5
#: Launches in one timed run on CUDA, so that it takes longer than the timer's resolution.
_LAUNCHES = 10
#: Share of neurons that fire in a random layer, as in trained networks.
_FIRING_RATE = 0.2
_DECAY = 0.5


def measure_tiles(
    shapes: Sequence[LayerShape],
    known: Mapping[LayerShape, Measurement],
    device: torch.device,
    timer: Timer,
    lock: AbstractContextManager[object],
    is_over: Callable[[], bool],
) -> dict[LayerShape, Measurement]:
    """Return the fastest tile of each layer shape, in the order of importance.

    The most promising candidate of each shape that `known` has not tried is measured first, then
    the next of each, until `is_over` is true or memory is short: a shape of which none was measured
    is left out. A candidate is compiled without `lock`, and runs with it. Raises as `is_faster`,
    but for a lack of memory.
    """
    measured: dict[LayerShape, Measurement] = {}
    tiles = {shape: candidates(shape) for shape in shapes}
    best = {
        shape: known.get(shape, Measurement(of_shape[0], 1)) for shape, of_shape in tiles.items()
    }
    for number in range(1, max((len(of_shape) for of_shape in tiles.values()), default=0)):
        for shape, of_shape in tiles.items():
            if not best[shape].tried <= number < len(of_shape):
                continue
            if is_over():
                return measured
            champion, challenger = best[shape].tile, of_shape[number]
            try:
                is_better = is_faster(challenger, champion, shape, device, timer, lock)
            except Exception as exc:
                if not is_out_of_memory(exc):
                    raise
                log.warning("measuring tiles ends: too little memory for %s", shape)
                return measured
            best[shape] = Measurement(challenger if is_better else champion, number + 1)
            measured[shape] = best[shape]
    return measured


def is_faster(
    challenger: Tile,
    champion: Tile,
    shape: LayerShape,
    device: torch.device,
    timer: Timer,
    lock: AbstractContextManager[object],
) -> bool:
    """Return whether a tile gives a layer's spikes and is faster than another one.

    One that cannot be compiled, or needs more shared memory or threads than the card has, is not.
    Raises what says nothing of the tile: torch.OutOfMemoryError or MemoryError, an error of CUDA
    (torch.AcceleratorError, or Triton's RuntimeError), and OSError of a disk.
    """
    try:
        with lock, torch.inference_mode():
            x, weights, added = random_layer(shape, device)

        def run(tile: Tile) -> Tensor:
            return packed_spikes.fire(x, weights, shape.steps, added, tile, pooled=shape.pooled)

        packed_spikes.compile_fire(x, weights, shape, added, challenger)
        with lock, torch.inference_mode():
            if not _agree(run(champion), run(challenger), shape.steps):
                log.warning("tile %s changes spikes of %s and is not used", challenger, shape)
                return False
            timed = [timer(partial(run, tile)) for tile in (champion, challenger)]
        return _saves_time(timed[0], timed[1], lock)
    except (torch.OutOfMemoryError, torch.AcceleratorError, MemoryError, OSError):
        raise
    except Exception as exc:  # compilers raise many kinds of errors
        if "[CUDA]" in str(exc):  # Triton's, of the driver
            raise
        log.warning("tile %s is not used for %s: %r", challenger, shape, exc)
        return False


def random_layer(shape: LayerShape, device: torch.device) -> tuple[Tensor, Weights, Tensor | None]:
    """Return inputs, weights and added spikes of a layer of a shape, for `packed_spikes.fire`."""
    generator = torch.Generator(device).manual_seed(0)
    side = 3 if shape.taps == 9 else 1

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=device)

    def spikes() -> Tensor:
        size = (shape.batch, shape.height, shape.width, shape.channels)
        packed = torch.zeros(size, dtype=torch.int64, device=device)
        for step in range(shape.steps):  # not all at once: T times the memory
            fires = torch.rand(size, generator=generator, device=device) < _FIRING_RATE
            packed |= fires.long() << step
        return packed.to(packed_spikes.dtype(shape.steps))

    fan_in = shape.taps * shape.channels * (_FIRING_RATE if shape.is_spikes else 1.0)
    weight = normal(shape.filters, shape.channels, side, side) * (0.7 / fan_in**0.5)
    folded = Folded(weight, normal(shape.filters) * 0.2 + 0.3, _DECAY)
    if shape.is_spikes:
        weights = packed_spikes.spike_weights(folded, half=shape.takes == "half")
        return spikes(), weights, spikes() if shape.added else None
    steps = 1 if shape.takes == "held" else shape.steps
    values = normal(steps, shape.batch, shape.height, shape.width, shape.channels)
    return values, packed_spikes.value_weights(folded), None


def timer(device: torch.device) -> Timer:
    """Return a timer for a device."""
    return CUDATimer(device) if device.type == "cuda" else wall_timer


def wall_timer(run: Work) -> Callable[[], float]:
    """Time a computation by the clock: a `Timer` for where there is no GPU."""

    def timed() -> float:
        started = time.perf_counter()
        run()
        return time.perf_counter() - started

    return timed


class CUDATimer:
    """Times launches of one recorded graph by CUDA's events, without the time of launching.

    A `Timer` for a CUDA device, which must be the current one. All its graphs are recorded on one
    stream and share memory. torch keeps that until the timer is dropped and its cache emptied.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        #: Kept until the next one is recorded: torch reuses the memory of living graphs only.
        self._last: torch.cuda.CUDAGraph | None = None

    def __call__(self, run: Work) -> Callable[[], float]:
        graph = torch.cuda.CUDAGraph()
        pool = None if self._last is None else self._last.pool()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            # Not torch.cuda.graph, which empties torch's cache. Other threads may allocate
            # meanwhile.
            graph.capture_begin(pool, capture_error_mode="thread_local")
            try:
                for _ in range(_LAUNCHES):
                    run()
            finally:  # else the stream would record for ever
                graph.capture_end()
        self._last = graph

        def timed() -> float:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end)) / 1000

        return timed


def _agree(expected: Tensor, actual: Tensor, steps: int) -> bool:
    differing = int((expected != actual).sum())
    return differing <= max(_MIN_ALLOWED_FLIPS, _ALLOWED_FLIPS * expected.numel() * steps)


def _saves_time(
    champion: Callable[[], float],
    challenger: Callable[[], float],
    lock: AbstractContextManager[object],
) -> bool:
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(_ROUNDS):
        with lock, torch.inference_mode():  # not for all rounds: requests wait
            seconds[0].append(champion())
            seconds[1].append(challenger())
    return statistics.median(seconds[1]) < (1 - _GAIN) * statistics.median(seconds[0])
