"""Requests that are queued together run together: an asyncio front, a worker thread a device.

A request takes a place first, decodes its upload, then queues. A worker that is free takes the
oldest request and every other of the same key, up to the largest batch. It waits only for requests
that hold a place and are still being decoded, and only for `max_wait_s`; a lone request never
waits. A cancelled request leaves the queue at once, and where a batch fails each of its
requests is run again alone, so that only the one to blame gets the error. A worker that dies,
hangs or fails at everything is replaced, by whoever calls `revive` now and then.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.errors import Error, Problem
from service.inference.admission import Admission
from service.request_record import request_id

if TYPE_CHECKING:
    from torch import Tensor

    from model.engine import Engine
    from model.network import Output

log = logging.getLogger("scmrl.batching")

#: Errors of torch after which a CUDA device fails at everything until its process ends.
_FATAL = frozenset({"AcceleratorError"})
#: Requests that fail one after the other, run alone, until the device is to blame.
_HOPELESS = 8
#: Longest wait for a worker to end, and for another in its place, in seconds.
_JOIN_S, _REPLACE_S = 2.0, 120.0


@dataclass(frozen=True)
class Key:
    """What must be equal for requests to run together.

    `shapes`: stream name and shape [T or 1, C, H, W] of each input.
    """

    steps: int
    explain: frozenset[str]
    shapes: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Ran:
    """One request's share of a batch: `output` with B = 1, times in seconds."""

    output: Output
    batch_size: int
    queue_s: float
    inference_s: float


@dataclass(eq=False)
class _Job:
    key: Key
    inputs: Mapping[str, Tensor]
    future: asyncio.Future[Ran]
    queued_at: float = field(default_factory=time.monotonic)
    id: str | None = field(default_factory=request_id.get)


class Place:
    """One accepted request's place, from before its decoding to its answer."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self.queued = False

    async def run(
        self, inputs: Mapping[str, Tensor], steps: int, explain: Collection[str] = ()
    ) -> Ran:
        """Queue for `steps` time steps on inputs [T or 1, C, H, W] by stream, and wait.

        Raises what the engine raised for this request, Problem NOT_READY where the worker has
        stopped. When cancelled, the request leaves the queue before inference.
        """
        shapes = tuple(sorted((name, tuple(x.shape)) for name, x in inputs.items()))
        key = Key(steps, frozenset(explain), shapes)
        job = _Job(key, inputs, asyncio.get_running_loop().create_future())
        self.queued = True
        self._batcher.enqueue(job)
        try:
            return await job.future
        except asyncio.CancelledError:
            self._batcher.withdraw(job)
            raise


class _Worker:
    """One device's thread, what it is running, and since when."""

    def __init__(self, engine: Engine, work: Callable[[_Worker], None]) -> None:
        self.engine = engine
        self.batch: list[_Job] = []
        self.since: float | None = None
        self.failed = 0  # requests, one after the other, until now
        self.replaced = False
        self.thread = threading.Thread(target=work, args=[self], name="scmrl-engine", daemon=True)

    @property
    def hopeless(self) -> bool:
        return self.failed >= _HOPELESS

    def lost(self, hung_after_s: float) -> str | None:
        """How it was lost; None where it was not."""
        if not self.thread.is_alive():
            return f"failed at {self.failed} requests on end" if self.hopeless else "died"
        since = self.since
        if since is not None and time.monotonic() - since > hung_after_s:
            return f"has been at one batch for more than {hung_after_s:g} s"
        return None


class Batcher:
    """The queue in front of one checkpoint's engines, one on each device.

    `max_batch` requests run together at most, `max_wait_s` is the longest wait for company,
    `places` the most requests accepted at a time (decoding, queued or running), `max_inside_s`
    the longest that one may take to be accepted. `on_fatal` is told of an error after which a
    device answers nobody any more.
    """

    def __init__(
        self,
        engines: Sequence[Engine],
        *,
        max_batch: int,
        max_wait_s: float,
        places: int,
        max_inside_s: float = math.inf,
        on_fatal: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self._on_fatal = on_fatal
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._admission = Admission(places, max_inside_s, 2 * max_batch * len(engines))
        self._queue: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._coming = 0  # places whose request is not queued yet
        self._stopped = False
        self._working = 0  # workers
        self._devices = len(engines)
        self._workers = [_Worker(engine, self._work) for engine in engines]
        self._orphans: list[Engine] = []  # whose worker was lost and has no successor yet
        self.restarts = 0  # workers that were replaced
        self.failures = 0  # runs that raised an error
        self.batches: Counter[int] = Counter()  # that have run, by their size

    def start(self) -> None:
        self._working = self._devices
        for worker in self._workers:
            worker.thread.start()

    def revive(self, hung_after_s: float) -> None:
        """Replace workers that died, or have been at one batch for longer than `hung_after_s`.

        What these were running is refused. A thread that hangs cannot be ended: it is left
        behind, with its engine. Raises what making or trying another engine raises, as a device
        does that still fails: the next call tries again. `on_fatal` is told where even that hangs.
        """
        with self._changed:
            lost = {w: why for w in self._workers if (why := w.lost(hung_after_s))}
            if self._stopped:
                return
            self._workers = [worker for worker in self._workers if worker not in lost]
            self._orphans += [worker.engine for worker in lost]
            for worker in lost:
                worker.replaced = True
                self._working -= worker.thread.is_alive()
        for worker, why in lost.items():
            log.error(
                "the worker on %s %s: it is replaced; it was at the requests %s",
                worker.engine.device, why, _ids(worker.batch),
            )  # fmt: skip
            for job in worker.batch:
                _deliver(job, _stopped())
        for engine in list(self._orphans):
            self._replace(engine)

    def _replace(self, engine: Engine) -> None:
        error = TimeoutError(f"no worker in place of a lost one after {_REPLACE_S:g} s")
        patience = threading.Timer(_REPLACE_S, self._on_fatal, [error])
        patience.daemon = True
        patience.start()
        try:
            successor = _Worker(engine.renewed(), self._work)
        finally:
            patience.cancel()
        with self._changed:
            if self._stopped:
                return
            self._orphans.remove(engine)
            self.restarts += 1
            self._working += 1
            self._workers.append(successor)
            successor.thread.start()

    def stop(self) -> None:
        """End the workers after the batches they run; what is still queued is refused."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        for worker in list(self._workers):
            if worker.thread.is_alive():
                worker.thread.join(_JOIN_S)

    def trouble(self, stalled_after_s: float) -> str | None:
        """What is wrong with a worker: it has died, or has been at one batch for longer than
        `stalled_after_s`; None where every device has one that works."""
        for worker in list(self._workers):
            if why := worker.lost(stalled_after_s):
                return f"The worker on {worker.engine.device} {why}."
        if len(self._workers) < self._devices:
            return "A worker is being replaced."
        return None

    @property
    def engines(self) -> list[Engine]:
        """The engine of each device."""
        return [worker.engine for worker in self._workers]

    @property
    def shortages(self) -> int:
        """How often a device was out of memory."""
        return sum(engine.shortages for engine in (*self.engines, *self._orphans))

    @property
    def taken(self) -> int:
        """Places that are taken now."""
        return self._admission.taken

    @property
    def queued(self) -> int:
        """Requests that wait for a worker now."""
        return len(self._queue)

    @property
    def pressure(self) -> float:
        """How near it is to refusing requests, from 0 to 1."""
        return self._admission.pressure

    @property
    def places(self) -> int:
        """The most that can be taken."""
        return self._admission.places

    def check_room(self) -> None:
        """Raise Problem FULL where no place is free: before an upload is read for nothing."""
        self._admission.check()

    @contextmanager
    def place(self) -> Iterator[Place]:
        """A place for one request, free again when the block ends. Raises Problem FULL."""
        with self._changed:
            self._admission.enter()
            self._coming += 1
        place = Place(self)
        try:
            yield place
        finally:
            with self._changed:
                self._admission.leave()
                if not place.queued:
                    self._coming -= 1
                    self._changed.notify_all()

    def enqueue(self, job: _Job) -> None:
        with self._changed:
            self._coming -= 1
            if not self._working or self._stopped:
                raise _stopped()
            self._queue.append(job)
            self._changed.notify_all()

    def withdraw(self, job: _Job) -> None:
        """Take a job out of the queue; one that is running is left to run for nobody."""
        with self._changed, suppress(ValueError):
            self._queue.remove(job)

    def _work(self, worker: _Worker) -> None:
        left: list[_Job] = []
        try:
            while not worker.hopeless and (batch := self._take(worker)):
                worker.batch = batch
                self._run(worker, batch)
                worker.batch, worker.since = [], None
        finally:
            with self._changed:
                self._working -= not worker.replaced
                if not self._working and not worker.replaced:  # else its successor takes them
                    left, self._queue = list(self._queue), deque()
            for job in (*worker.batch, *left):  # of a batch, those that have no answer yet
                _deliver(job, _stopped())

    def _take(self, worker: _Worker) -> list[_Job]:
        """Wait for the next batch and take it; empty when stopped."""
        with self._changed:
            while not self._stopped and not worker.replaced:
                if not self._queue:
                    self._changed.wait()
                    continue
                oldest = self._queue[0]
                batch = [job for job in self._queue if job.key == oldest.key][: self._max_batch]
                patience = oldest.queued_at + self._max_wait_s - time.monotonic()
                if len(batch) < self._max_batch and self._coming and patience > 0:
                    self._changed.wait(patience)
                    continue
                for job in batch:
                    self._queue.remove(job)
                return batch
        return []

    def _run(self, worker: _Worker, batch: list[_Job], *, again: bool = True) -> None:
        """Run a batch and answer it; where it fails, each of its requests once more alone."""
        from model.engine.outputs import sliced

        started = worker.since = time.monotonic()
        try:
            output = _infer(worker.engine, batch)
            shares = [sliced(output, index, 1) for index in range(len(batch))]
        except Exception as exc:
            self._failed(worker, batch, exc, again)
            return
        worker.failed = 0
        seconds = time.monotonic() - started
        self.batches[len(batch)] += 1
        for job, share in zip(batch, shares, strict=True):
            _deliver(job, Ran(share, len(batch), started - job.queued_at, seconds))

    def _failed(self, worker: _Worker, batch: list[_Job], exc: Exception, again: bool) -> None:
        self.failures += 1
        if type(exc).__name__ in _FATAL:
            for job in batch:
                _deliver(job, _stopped())
            self._on_fatal(exc)
            return
        if not again:
            short = isinstance(exc, MemoryError)
            worker.failed += not short
            _deliver(batch[0], _short_of_memory() if short else exc)
            return
        log.warning(
            "a batch of %d failed, each is run again alone: %r; the requests %s",
            len(batch), exc, _ids(batch),
        )  # fmt: skip
        for job in batch:
            if not worker.replaced and not job.future.done():  # else there is nobody to answer
                self._run(worker, [job], again=False)


def _infer(engine: Engine, batch: list[_Job]) -> Output:
    import torch

    key = batch[0].key
    inputs = {
        name: torch.stack([job.inputs[name] for job in batch], dim=1) for name, _ in key.shapes
    }
    return engine.run(inputs, steps=key.steps, explain=key.explain)


def _deliver(job: _Job, result: Ran | Exception) -> None:
    """Hand a result to the request's event loop, which may have lost interest or closed."""

    def settle() -> None:
        if job.future.done():
            return
        if isinstance(result, Exception):
            job.future.set_exception(result)
        else:
            job.future.set_result(result)

    with suppress(RuntimeError):  # the loop is closed: nobody waits
        job.future.get_loop().call_soon_threadsafe(settle)


def _ids(batch: list[_Job]) -> str:
    return ", ".join(job.id or "of no id" for job in batch) or "(none)"


def _stopped() -> Problem:
    return Problem(Error.NOT_READY, "The checkpoint is not being served.", retry_after_s=5)


def _short_of_memory() -> Problem:
    detail = "The device has too little memory for this; fewer `steps` take less."
    return Problem(Error.FULL, detail, retry_after_s=5)
