"""Supervision of batch workers: one for each device, replaced when it dies, fails or hangs."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from service.inference.batch_queue import BatchQueue, not_served
from service.inference.batch_worker import BatchCounts, BatchWorker, request_ids
from service.inference.engines import DeviceNetwork

if TYPE_CHECKING:
    from model.config import Precision

log = logging.getLogger("scmrl.batching")

#: Longest wait for the replacement of a worker, in seconds.
_REPLACE_S = 120.0


class WorkerSupervisor:
    """The workers of one checkpoint's queue.

    State of a device: has a worker -> lost it (its engine waits in `_awaiting`) -> has a worker.
    `on_fatal` receives an error after which a device can run nothing any more.
    """

    def __init__(
        self,
        engines: Sequence[DeviceNetwork],
        queue: BatchQueue,
        counts: BatchCounts,
        on_fatal: Callable[[Exception], None],
    ) -> None:
        self._queue = queue
        self._counts = counts
        self._on_fatal = on_fatal
        self._devices = len(engines)
        self._workers = [self._make_worker(engine) for engine in engines]
        #: Engines of lost workers that are not replaced yet.
        self._awaiting: list[DeviceNetwork] = []
        #: Threads that replace them, so that a device that hangs delays no other.
        self._replacing: dict[DeviceNetwork, threading.Thread] = {}
        self._errors: list[Exception] = []  # of those threads, raised by the next call
        self._fused_as: tuple[Precision, int] | None = None  # arguments of `fuse`
        self.restarts = 0  # workers that were replaced

    def start(self) -> None:
        """Start a worker on each device."""
        for worker in self._workers:
            worker.start()

    def begin_replacements(self, hung_after_s: float) -> None:
        """Begin to replace workers that died, or have been running one batch for longer than
        `hung_after_s`, and those whose replacement has failed.

        The requests that they were running get Problem NOT_READY. A thread that hangs cannot be
        ended: it and its engine are abandoned, unless the engine is in another process. `on_fatal`
        is called if a replacement takes longer than `_REPLACE_S`.
        """
        with self._queue.lock:
            lost = {w: reason for w in self._workers if (reason := w.loss(hung_after_s))}
            if self._queue.is_closed:
                return
            self._workers = [worker for worker in self._workers if worker not in lost]
            self._awaiting += [worker.engine for worker in lost]
            for worker in lost:
                worker.dismiss()
        for worker, reason in lost.items():
            log.error(
                "the worker on %s %s and is being replaced; requests in its batch: %s",
                worker.engine.device, reason, request_ids(worker.batch),
            )  # fmt: skip
            for request in worker.batch:
                request.deliver(not_served())
        with self._queue.lock:  # a replaced engine leaves `_awaiting` before `_replacing`
            for engine in self._awaiting:
                if engine not in self._replacing:
                    self._replacing[engine] = thread = threading.Thread(
                        target=self._try_to_replace, args=(engine,), name="scmrl-replace"
                    )
                    thread.daemon = True
                    self._start_or_forget(engine, thread)

    def await_replacements(self, until: float) -> None:
        """Wait for replacements until time.monotonic() is `until`; they continue in their threads.

        Raises what making or trying another engine has raised since the last call, as on a device
        that still fails: `begin_replacements` tries again.
        """
        for thread in list(self._replacing.values()):
            thread.join(max(0.0, until - time.monotonic()))
        errors, self._errors = self._errors, []
        if errors:
            try:
                raise errors[0]
            finally:
                errors.clear()  # the error's traceback refers to this frame: a cycle

    def fuse(self, precision: Precision, steps: int) -> bool:
        """Switch every engine to its fast path, see Engine.fuse; return whether each has one now.

        An engine that replaces a lost one switches to it as well, once it is there.
        """
        with self._queue.lock:
            self._fused_as = precision, steps
            engines, is_complete = self.engines, not self._awaiting
        fused = [_fuse(engine, precision, steps) for engine in engines]  # all, also after a failure
        return is_complete and all(fused)

    def set_max_batch(self, engine: DeviceNetwork, max_batch: int) -> None:
        """Change the maximum requests in a batch of an engine, if it still has a worker."""
        with self._queue.lock:
            worker = next((w for w in self._workers if w.engine is engine), None)
        if worker is not None:
            worker.set_max_batch(max_batch)

    def close(self) -> None:
        """Close the queue: the workers end after the batches that they run."""
        self._queue.close()

    def join(self, until: float) -> None:
        """Wait for the end of the workers until time.monotonic() is `until`; one may hang."""
        for worker in list(self._workers):
            worker.join(max(0.0, until - time.monotonic()))

    def not_ready_reason(self, stalled_after_s: float) -> str | None:
        """Return what is wrong with a worker: it died, or runs one batch for longer than
        `stalled_after_s`, or is being replaced. None if a device has one that works."""
        workers = list(self._workers)
        lost = [
            f"The worker on {worker.engine.device} {reason}."
            for worker in workers
            if (reason := worker.loss(stalled_after_s))
        ]
        if len(lost) < len(workers):
            return None
        return lost[0] if lost else "A worker is being replaced."

    @property
    def has_all_workers(self) -> bool:
        """Whether every device has its worker."""
        workers = list(self._workers)
        return len(workers) == self._devices and not any(w.loss(math.inf) for w in workers)

    @property
    def engines(self) -> list[DeviceNetwork]:
        """The engine of each device that has a worker."""
        return [worker.engine for worker in self._workers]

    @property
    def out_of_memory_count(self) -> int:
        """How often a device was out of memory."""
        return sum(engine.out_of_memory_count for engine in (*self.engines, *self._awaiting))

    def _start_or_forget(self, engine: DeviceNetwork, thread: threading.Thread) -> None:
        """Start the thread that replaces an engine; where none can be started, the next call tries
        again."""
        try:
            thread.start()
        except RuntimeError as exc:  # the number of threads, or memory, is limited
            del self._replacing[engine]
            self._errors.append(exc)

    def _try_to_replace(self, engine: DeviceNetwork) -> None:
        try:
            self._replace(engine)
        except Exception as exc:
            self._errors.append(exc)
        finally:
            del self._replacing[engine]

    def _replace(self, engine: DeviceNetwork) -> None:
        error = TimeoutError(f"a lost worker has not been replaced after {_REPLACE_S:g} s")
        timeout = threading.Timer(_REPLACE_S, self._on_fatal, [error])
        timeout.daemon = True
        timeout.start()
        try:
            successor = self._make_worker(engine.renew())
        finally:
            timeout.cancel()
        with self._queue.lock:
            if self._queue.is_closed:
                return
            self._awaiting.remove(engine)
            self.restarts += 1
            self._workers.append(successor)
            successor.start()
            fused_as = self._fused_as
        # An engine that was lost before or during `fuse` has not been fused.
        if fused_as is not None and successor.engine.path == "plain":
            _fuse(successor.engine, *fused_as)

    def _make_worker(self, engine: DeviceNetwork) -> BatchWorker:
        return BatchWorker(engine, self._queue, self._counts, self._on_fatal)


def _fuse(engine: DeviceNetwork, precision: Precision, steps: int) -> bool:
    """Switch an engine to its fast path, in float32 where it does not have the precision; one where
    that fails answers by the path that it has."""
    try:
        if engine.fuse(precision, steps):
            return True
        if precision == "float32" or engine.is_lost:
            return False
        log.warning("the network on %s runs in float32 instead of %s", engine.device, precision)
        return engine.fuse("float32", steps)
    except Exception:
        log.exception("the network on %s stays on its path %s", engine.device, engine.path)
        return False
