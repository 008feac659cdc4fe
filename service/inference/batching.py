"""Dynamic batching in front of one checkpoint's engines: slots, a queue, one worker per device.

A request takes a slot, decodes its upload, then queues. A free worker takes the oldest request and
all others that can run with it. A cancelled request leaves the queue at once.

    event loop                                 threads
    Admission -> Slot.run -> BatchQueue ------> BatchWorker (one per device)
                                                   ^ WorkerSupervisor replaces lost ones
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from service.inference.admission import Admission
from service.inference.batch_queue import BatchKey, BatchQueue, InferenceResult, QueuedRequest
from service.inference.batch_worker import BatchCounts
from service.inference.engines import DeviceNetwork
from service.inference.supervisor import WorkerSupervisor

if TYPE_CHECKING:
    from model.arrays import Float32Array
    from model.config import Precision

#: Longest wait for workers to end, in seconds: one of them may hang.
JOIN_S = 2.0


class Slot:
    """The slot of one admitted request, from before its decoding to its answer: see models.Slot."""

    def __init__(self, queue: BatchQueue) -> None:
        self._queue = queue
        self.is_queued = False
        self.decode_wait_s = 0.0

    async def run(
        self, inputs: Mapping[str, Float32Array], steps: int, explain: Collection[str] = ()
    ) -> InferenceResult:
        """Queue for `steps` time steps on inputs [T or 1, C, H, W] by stream, and wait.

        May be called again, for further runs of the same request. Raises what the engine raised
        for this request, Problem NOT_READY if the worker has stopped. When cancelled, the request
        leaves the queue before inference.
        """
        shapes = tuple(sorted((name, tuple(x.shape)) for name, x in inputs.items()))
        key = BatchKey(steps, frozenset(explain), shapes)
        future = asyncio.get_running_loop().create_future()
        request = QueuedRequest(key, inputs, future, self.decode_wait_s)
        self.decode_wait_s = 0.0  # further runs of the request wait no longer than others
        if self.is_queued:  # `put` withdraws an announcement, and that of the slot is used up
            self._queue.expect()
        self.is_queued = True
        self._queue.put(request)
        try:
            return await request.future
        except asyncio.CancelledError:
            self._queue.withdraw(request)
            raise


class Batcher:
    """The slots, queue and workers of one checkpoint; its engines are one on each device.

    Args:
        engines: One for each device, with its maximum batch.
        max_wait_s: Longest wait of a queued request for others that are being decoded, in seconds.
        max_wait_under_load_s: Longest wait, in seconds, of a request that has waited for a decoding
            process: see BatchQueue.
        slots: Maximum requests in flight (decoding, queued or running).
        max_estimated_wait_s: Reject requests with a longer estimated wait, in seconds.
        on_fatal: Receives an error after which a device can run nothing any more.
    """

    def __init__(
        self,
        engines: Sequence[DeviceNetwork],
        *,
        max_wait_s: float,
        max_wait_under_load_s: float = 0.0,
        slots: int,
        max_estimated_wait_s: float = math.inf,
        on_fatal: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self.admission = Admission(slots, max_estimated_wait_s, _always_admit(engines))
        self._queue = BatchQueue(max_wait_s, max_wait_under_load_s)
        self._counts = BatchCounts()
        self._supervisor = WorkerSupervisor(engines, self._queue, self._counts, on_fatal)

    # --- start and stop --------------------------------------------------------------------------

    def start(self) -> None:
        """Start a worker on each device."""
        self._supervisor.start()

    def begin_replacements(self, hung_after_s: float) -> None:
        """See WorkerSupervisor.begin_replacements."""
        self._supervisor.begin_replacements(hung_after_s)

    def await_replacements(self, until: float) -> None:
        """See WorkerSupervisor.await_replacements."""
        self._supervisor.await_replacements(until)

    def fuse(self, precision: Precision, steps: int) -> bool:
        """See WorkerSupervisor.fuse."""
        return self._supervisor.fuse(precision, steps)

    def set_max_batch(self, engine: DeviceNetwork, max_batch: int) -> None:
        """Change the maximum requests in a batch of one of `engines`, and how many requests are
        admitted at any wait: two batches of each engine."""
        self._supervisor.set_max_batch(engine, max_batch)
        self.admission.set_always_admit(_always_admit(self.engines))

    def close(self) -> None:
        """Let the workers end after the batches that they run; queued requests get NOT_READY."""
        self._supervisor.close()

    def join(self, until: float) -> None:
        """See WorkerSupervisor.join."""
        self._supervisor.join(until)

    def stop(self) -> None:
        """Close it and wait for its workers, for `JOIN_S` at most."""
        self.close()
        self.join(time.monotonic() + JOIN_S)

    # --- requests --------------------------------------------------------------------------------

    def check_capacity(self) -> None:
        """Raise Problem FULL if no slot is free. Call it before an upload is read."""
        self.admission.check()

    @contextmanager
    def slot(self) -> Iterator[Slot]:
        """Hold a slot for one request until the block ends. Raises Problem FULL."""
        self.admission.acquire()
        self._queue.expect()
        slot = Slot(self._queue)
        try:
            yield slot
        finally:
            self.admission.release()
            if not slot.is_queued:
                self._queue.unexpect()

    # --- state -----------------------------------------------------------------------------------

    def not_ready_reason(self, stalled_after_s: float) -> str | None:
        """See WorkerSupervisor.not_ready_reason."""
        return self._supervisor.not_ready_reason(stalled_after_s)

    @property
    def has_all_workers(self) -> bool:
        """Whether every device has its worker."""
        return self._supervisor.has_all_workers

    @property
    def engines(self) -> list[DeviceNetwork]:
        """The engine of each device that has a worker."""
        return self._supervisor.engines

    @property
    def pressure(self) -> float:
        """The load, from 0 (nothing in flight) to 1 (requests are rejected)."""
        return self.admission.pressure

    @property
    def slots(self) -> int:
        """The maximum number of requests in flight."""
        return self.admission.slots

    @property
    def in_flight(self) -> int:
        """Requests that hold a slot now."""
        return self.admission.in_flight

    @property
    def queued(self) -> int:
        """Requests that wait for a worker now."""
        return len(self._queue)

    @property
    def batches(self) -> Counter[int]:
        """Batches that have run, by their size."""
        return self._counts.batches

    @property
    def failures(self) -> int:
        """Runs that raised an error."""
        return self._counts.failures

    @property
    def out_of_memory_count(self) -> int:
        """How often a device was out of memory."""
        return self._supervisor.out_of_memory_count

    @property
    def restarts(self) -> int:
        """Workers that were replaced."""
        return self._supervisor.restarts


def _always_admit(engines: Sequence[DeviceNetwork]) -> int:
    """Return the requests that may be in flight at any wait: a batch that runs and the next one."""
    return sum(2 * engine.max_batch for engine in engines)
