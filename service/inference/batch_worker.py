"""A batch worker: the thread of one device, which takes batches, runs them and answers them."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from model.thread_name import show_thread_name
from service.device_link.connection import FATAL, DeviceLost
from service.errors import Error, Problem
from service.inference.batch_queue import BatchQueue, InferenceResult, QueuedRequest, not_served
from service.inference.engines import DeviceNetwork

if TYPE_CHECKING:
    from model.network import Output

log = logging.getLogger("scmrl.batching")

#: Consecutive failures of requests that run alone, after which the device counts as failing.
_MAX_FAILURES = 8


@dataclass
class BatchCounts:
    """Counters of all workers of a checkpoint, for its metrics."""

    #: Batches that have run, by their size.
    batches: Counter[int] = field(default_factory=Counter)
    #: Runs that raised an error.
    failures: int = 0


class BatchWorker:
    """Runs batches of `queue` on one engine, in a thread of its own.

    State: made -> `start` -> waiting <-> running a batch -> ended. It ends when the queue is closed
    or dismisses it, when the thread dies, after `_MAX_FAILURES` failures in a row, or when the
    process that runs its engine is lost. A batch that fails is run again request by request, so
    that only the request that fails gets the error. `on_fatal` receives an error after which the
    device can run nothing any more.
    """

    def __init__(
        self,
        engine: DeviceNetwork,
        queue: BatchQueue,
        counts: BatchCounts,
        on_fatal: Callable[[Exception], None],
    ) -> None:
        self.engine = engine
        self.batch: list[QueuedRequest] = []  # being run
        self._queue = queue
        self._counts = counts
        self._on_fatal = on_fatal
        self._running_since: float | None = None
        self._failures = 0  # of requests run alone, in a row
        self._is_dismissed = self._is_process_lost = False
        self._thread = threading.Thread(target=self._work, name="scmrl-engine", daemon=True)

    def start(self) -> None:
        """Attach to the queue and start the thread."""
        self._queue.attach(self, self.engine.max_batch)
        self._thread.start()

    def set_max_batch(self, max_batch: int) -> None:
        """Change the maximum requests in a batch, from the next batch on."""
        self.engine.set_max_batch(max_batch)
        self._queue.set_max_batch(self, max_batch)

    def dismiss(self) -> None:
        """Take no more batches; what is queued is left to another worker."""
        self._is_dismissed = True
        self._queue.dismiss(self)

    def join(self, timeout_s: float) -> None:
        """Wait for the thread's end, if it has been started."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def loss(self, hung_after_s: float) -> str | None:
        """Return how the worker was lost (died, failed at everything, hangs, has lost the process
        of its device), None if it was not.

        It hangs if it has been running one batch for more than `hung_after_s`.
        """
        if self._is_process_lost or self.engine.is_lost:
            return "lost the process of its device"
        if not self._thread.is_alive():
            return f"failed at {self._failures} requests in a row" if self._is_failing else "died"
        since = self._running_since
        if since is not None and time.monotonic() - since > hung_after_s:
            return f"has been running one batch for more than {hung_after_s:g} s"
        return None

    @property
    def _is_failing(self) -> bool:
        return self._failures >= _MAX_FAILURES

    def _work(self) -> None:
        show_thread_name()
        unserved: list[QueuedRequest] = []
        try:
            while not self._is_failing and (batch := self._queue.take(self)):
                if self.engine.is_lost:
                    self._queue.give_back(batch)
                    break
                self.batch = batch
                self._run(batch)
                self.batch, self._running_since = [], None
        except DeviceLost:
            self._is_process_lost = True
        finally:
            unserved = self._queue.leave(self)
            for request in (*self.batch, *unserved):  # of the batch, those without an answer
                request.deliver(not_served())

    def _run(self, batch: list[QueuedRequest], *, again: bool = True) -> None:
        """Run a batch and answer it; if it fails, run each of its requests once more alone."""
        from model.engine.outputs import split_to_arrays

        started = self._running_since = time.monotonic()
        try:
            output = _infer(self.engine, batch)
            outputs = split_to_arrays(output, len(batch))
        except DeviceLost:
            raise
        except Exception as exc:
            self._fail(batch, exc, again)
            return
        self._failures = 0
        seconds = time.monotonic() - started
        self._counts.batches[len(batch)] += 1
        for request, request_output in zip(batch, outputs, strict=True):
            queue_s = started - request.queued_at
            request.deliver(InferenceResult(request_output, len(batch), queue_s, seconds))

    def _fail(self, batch: list[QueuedRequest], exc: Exception, again: bool) -> None:
        self._counts.failures += 1
        if type(exc).__name__ in FATAL:
            for request in batch:
                request.deliver(not_served())
            self._on_fatal(exc)
            return
        if not again:
            is_out_of_memory = isinstance(exc, MemoryError)
            self._failures += not is_out_of_memory  # another request may need less
            batch[0].deliver(_out_of_memory() if is_out_of_memory else exc)
            return
        log.warning(
            "a batch of %d failed, running each of its requests alone: %r; requests: %s",
            len(batch), exc, request_ids(batch),
        )  # fmt: skip
        for request in batch:
            if not self._is_dismissed and not request.future.done():  # done: it was cancelled
                self._run([request], again=False)


def _infer(engine: DeviceNetwork, batch: list[QueuedRequest]) -> Output:
    from model.engine.inputs import stack_clips

    key = batch[0].key
    inputs = stack_clips([request.inputs for request in batch], engine.allocate)
    return engine.run(inputs, steps=key.steps, explain=key.explain)


def request_ids(batch: Sequence[QueuedRequest]) -> str:
    """Return the ids of a batch's requests, for the log."""
    return ", ".join(request.id or "(no id)" for request in batch) or "(none)"


def _out_of_memory() -> Problem:
    detail = "The device has too little memory for this request. Lower `steps` and retry."
    return Problem(Error.FULL, detail, retry_after_s=5)
