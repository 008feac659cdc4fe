"""Several devices behind one queue: throughput, latency, and what each of them gets."""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from model.arrays import Float32Array
from model.engine.inputs import stack_clips
from service.bench.counted_engine import CountedEngine
from service.device_link.devices import Devices
from service.inference.batching import Batcher
from service.inference.engines import DeviceNetwork
from service.settings import Settings

if TYPE_CHECKING:
    from model.network import SCMRL

#: Requests in flight for each device, in batches.
_BATCHES_IN_FLIGHT = 4

Clip = Mapping[str, Float32Array]


@dataclass(frozen=True)
class DeviceShare:
    """What one device ran."""

    device: str
    batches: int
    clips: int


@dataclass(frozen=True)
class DevicesLoad:
    """Clients that send the next request after each answer, on some of the devices.

    Attributes:
        way: "one device", "all devices" or "all devices, the first busy".
        clips_s: Clips per second through the queue, the median of the rounds.
        without_queue_clips_s: The same where each device has a thread of its own that runs full
            batches, one after the other.
        p50_ms, p99_ms, longest_ms: Time from a request to its result, of all rounds.
        shares: What each device ran, in all rounds.
        fewest_clips, most_clips: Answers of one client, as a multiple of the mean client's in its
            round: the lowest and the highest of all rounds.
    """

    way: str
    clips_s: float
    without_queue_clips_s: float
    p50_ms: float
    p99_ms: float
    longest_ms: float
    shares: tuple[DeviceShare, ...]
    fewest_clips: float
    most_clips: float


@dataclass(frozen=True)
class _Round:
    """One way in one round: time from each request to its result in seconds, answers of each
    client, and batches and clips of each device."""

    clips_s: float
    without_queue_clips_s: float
    latencies_s: list[float]
    of_clients: list[int]
    shares: list[tuple[int, int]]


def measure(
    devices: Devices,
    names: Sequence[str],
    network: SCMRL,
    steps: int,
    clips: Sequence[Clip],
    *,
    max_batch: int,
    seconds: float,
    rounds: int,
) -> list[DevicesLoad]:
    """Measure the first device, all of them, and all while the first has other work, in turns.

    The other work is that of a second checkpoint: full batches of the same network, one after the
    other. `clips`: inputs [T or 1, C, H, W] by stream. `seconds`: of each way in each round, with
    the queue and without. A process of a CPU stays on a core of its own, so that it stands for a
    device. Raises DeviceLost.
    """
    engines = [CountedEngine(each) for each in devices.load(names, network, max_batch)]
    neighbour, *_ = devices.load(names, network, max_batch)
    for engine in (*(counted.engine for counted in engines), neighbour):
        engine.fuse(steps=steps)
        engine.warm_up(steps, sorted({1, max_batch}))
    batch = [clips[number % len(clips)] for number in range(max_batch)]
    ways: dict[str, tuple[list[CountedEngine], Callable[[], AbstractContextManager[None]]]] = {
        "one device": (engines[:1], nullcontext),
        "all devices": (engines, nullcontext),
        "all devices, the first busy": (engines, lambda: _kept_busy(neighbour, steps, batch)),
    }
    measured: dict[str, list[_Round]] = {way: [] for way in ways}
    with _on_cores(devices.pids if set(names) == {"cpu"} else []):
        for _ in range(rounds + 1):
            for way, (used, other_work) in ways.items():
                with other_work():
                    measured[way].append(_run(used, steps, clips, seconds, batch))
    # The first round fills caches.
    return [_summarize(way, used, measured[way][1:]) for way, (used, _) in ways.items()]


def _summarize(way: str, engines: Sequence[CountedEngine], rounds: Sequence[_Round]) -> DevicesLoad:
    latencies_ms = [1000 * s for each in rounds for s in each.latencies_s]
    p50, p99, longest = np.percentile(latencies_ms, (50, 99, 100))
    of_clients = [
        count / statistics.mean(each.of_clients) for each in rounds for count in each.of_clients
    ]
    shares = [
        DeviceShare(str(engine.device), *map(sum, zip(*of_rounds, strict=True)))
        for engine, of_rounds in zip(
            engines, zip(*(each.shares for each in rounds), strict=True), strict=True
        )
    ]
    return DevicesLoad(
        way, statistics.median(each.clips_s for each in rounds),
        statistics.median(each.without_queue_clips_s for each in rounds),
        float(p50), float(p99), float(longest), tuple(shares), min(of_clients), max(of_clients),
    )  # fmt: skip


def _run(
    engines: Sequence[CountedEngine],
    steps: int,
    clips: Sequence[Clip],
    seconds: float,
    batch: Sequence[Clip],
) -> _Round:
    """Run full batches on each engine, then a closed loop on all of them behind one queue."""
    without_queue = _run_without_queue(engines, steps, batch, seconds)
    before = [(engine.batches, engine.clips) for engine in engines]
    wait_s = Settings.model_fields["max_batch_wait_ms"].default / 1000
    batcher = Batcher(engines, max_wait_s=wait_s, slots=sys.maxsize)
    batcher.start()
    try:
        elapsed, latencies_s, of_clients = asyncio.run(_load(batcher, steps, clips, seconds))
    finally:
        batcher.stop()
    shares = [
        (engine.batches - batches, engine.clips - run)
        for engine, (batches, run) in zip(engines, before, strict=True)
    ]
    clips_s = len(latencies_s) / elapsed
    return _Round(clips_s, without_queue, latencies_s, of_clients, shares)


async def _load(
    batcher: Batcher, steps: int, clips: Sequence[Clip], seconds: float
) -> tuple[float, list[float], list[int]]:
    """Return the seconds of a closed loop, each request's, and the answers of each client."""
    latencies_s: list[float] = []
    started = time.perf_counter()

    async def client(number: int) -> int:
        answered = 0
        while (sent := time.perf_counter()) < started + seconds:
            with batcher.slot() as slot:
                await slot.run(clips[(number + answered) % len(clips)], steps)
            latencies_s.append(time.perf_counter() - sent)
            answered += 1
        return answered

    clients = _BATCHES_IN_FLIGHT * sum(engine.max_batch for engine in batcher.engines)
    of_clients = await asyncio.gather(*map(client, range(clients)))
    return time.perf_counter() - started, latencies_s, of_clients


def _run_without_queue(
    engines: Sequence[CountedEngine], steps: int, batch: Sequence[Clip], seconds: float
) -> float:
    """Return the clips/s of full batches, each engine in a thread."""
    before, started = sum(engine.clips for engine in engines), time.perf_counter()
    with ExitStack() as stack:
        for engine in engines:
            stack.enter_context(_kept_busy(engine, steps, batch))
        time.sleep(seconds)
    return (sum(engine.clips for engine in engines) - before) / (time.perf_counter() - started)


@contextmanager
def _kept_busy(engine: DeviceNetwork, steps: int, batch: Sequence[Clip]) -> Iterator[None]:
    """Run full batches on an engine without a pause, in a thread."""
    is_over = threading.Event()

    def work() -> None:
        while not is_over.is_set():
            engine.run(stack_clips(batch, engine.allocate), steps)

    with ThreadPoolExecutor(1) as threads:
        working = threads.submit(work)
        try:
            yield
        finally:
            is_over.set()
            working.result()


@contextmanager
def _on_cores(pids: Sequence[int]) -> Iterator[None]:
    """Keep each process on a core of its own, as far as there are cores and the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    cores = sorted(os.sched_getaffinity(0))
    try:
        for number, pid in enumerate(pids):
            _set_cores(pid, {cores[number % len(cores)]})
        yield
    finally:
        for pid in pids:
            _set_cores(pid, set(cores))


def _set_cores(pid: int, cores: set[int]) -> None:
    """Let all threads of a process run on some cores alone; those that they start do as well."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(int(task.name), cores)
