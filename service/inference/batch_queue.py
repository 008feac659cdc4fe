"""The queue between the event loop and the batch workers: requests in, batches out."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from model.arrays import Float32Array
from service.errors import Error, Problem
from service.request_record import request_id

if TYPE_CHECKING:
    from model.output import ArrayOutput


#: A request waits for others of its batch for at most this share of its wait for a process that
#: decodes it.
_DECODE_WAIT_SHARE = 0.125


@dataclass(frozen=True)
class BatchKey:
    """The properties that requests of one batch have in common.

    `shapes`: stream name and shape [T or 1, C, H, W] of each input.
    """

    steps: int
    explain: frozenset[str]
    shapes: tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class InferenceResult:
    """The result of one request of a batch: `output` with B = 1, times in seconds."""

    output: ArrayOutput
    batch_size: int
    queue_s: float
    inference_s: float


#: Runs the network for T = `int` steps on inputs [T or 1, C, H, W] by stream, with the explanations
#: that are named.
RunNetwork: TypeAlias = Callable[
    [Mapping[str, Float32Array], int, Collection[str]], Awaitable[InferenceResult]
]


@dataclass(eq=False)
class QueuedRequest:
    """A decoded request: `inputs` [T or 1, C, H, W] by stream, and the future of its result.

    `decode_wait_s`: seconds that it has waited for a decoding process.
    """

    key: BatchKey
    inputs: Mapping[str, Float32Array]
    future: asyncio.Future[InferenceResult]
    decode_wait_s: float = 0.0
    queued_at: float = field(default_factory=time.monotonic)
    id: str | None = field(default_factory=request_id.get)

    def deliver(self, result: InferenceResult | Exception) -> None:
        """Settle the future in its event loop. Does nothing if it is settled or the loop closed."""

        def settle() -> None:
            if self.future.done():
                return
            if isinstance(result, Exception):
                self.future.set_exception(result)
            else:
                self.future.set_result(result)

        with suppress(RuntimeError):  # the loop is closed: nothing waits for the result
            self.future.get_loop().call_soon_threadsafe(settle)


class BatchQueue:
    """A FIFO queue of requests. A consumer takes the oldest one and others of its key, as many as
    it can run at a time.

    A consumer waits for a fuller batch only while requests are being decoded; a lone request never
    waits. No request waits for longer than `max_wait_s`, in seconds, whatever the others' keys. A
    request that has waited for a decoding process may wait longer: an eighth of that wait, at most
    `max_wait_under_load_s`. The CPU is busy then, and fuller batches save CPU time. Requests are
    accepted while the queue is open and has a consumer.

    State: open with consumers -> open without consumers (`put` raises) -> closed (`put` raises,
    `take` returns an empty batch).
    """

    def __init__(self, max_wait_s: float, max_wait_under_load_s: float = 0.0) -> None:
        self._max_wait_s = max_wait_s
        self._max_wait_under_load_s = max_wait_under_load_s
        self._changed = threading.Condition()  # guards the attributes below; re-entrant
        self._requests: deque[QueuedRequest] = deque()
        self._decoding = 0  # admitted requests that have not been put yet
        self._consumers: dict[Hashable, int] = {}  # maximum requests in a batch of each
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    @property
    def lock(self) -> threading.Condition:
        """While it is held, no batch is taken and no consumer attaches or detaches."""
        return self._changed

    # --- requests, from the event loop ---------------------------------------------------------

    def expect(self) -> None:
        """Announce a request that is being decoded; call `put` or `unexpect` afterwards."""
        with self._changed:
            self._decoding += 1

    def unexpect(self) -> None:
        """Withdraw the announcement: the request ended before `put`."""
        with self._changed:
            self._decoding -= 1
            self._changed.notify_all()

    def put(self, request: QueuedRequest) -> None:
        """Queue an announced request. Raises Problem NOT_READY if it would never be run."""
        with self._changed:
            self._decoding -= 1
            if not self._consumers or self._is_closed:
                raise not_served()
            self._requests.append(request)
            self._changed.notify_all()

    def withdraw(self, request: QueuedRequest) -> None:
        """Remove a cancelled request. One that is already in a batch runs to its end."""
        with self._changed, suppress(ValueError):
            self._requests.remove(request)

    # --- consumers, one for each device ----------------------------------------------------------

    def attach(self, consumer: Hashable, max_batch: int) -> None:
        """Let a consumer take batches of up to `max_batch` requests."""
        with self._changed:
            self._consumers[consumer] = max_batch

    def set_max_batch(self, consumer: Hashable, max_batch: int) -> None:
        """Change the maximum of a consumer; one that is not attached stays so."""
        with self._changed:
            if consumer in self._consumers:
                self._consumers[consumer] = max_batch

    def dismiss(self, consumer: Hashable) -> None:
        """Let a consumer take no more batches; the queued requests stay for its successor."""
        with self._changed:
            self._consumers.pop(consumer, None)
            self._changed.notify_all()

    def leave(self, consumer: Hashable) -> list[QueuedRequest]:
        """Detach a consumer that ends. Return the queued requests if it was the last consumer.

        Nothing is returned for a dismissed consumer: its successor takes them.
        """
        with self._changed:
            if consumer not in self._consumers:
                return []
            del self._consumers[consumer]
            if self._consumers:
                return []
            unserved, self._requests = list(self._requests), deque()
            return unserved

    def take(self, consumer: Hashable) -> list[QueuedRequest]:
        """Wait for the next batch and take it; empty if closed or the consumer was dismissed."""
        with self._changed:
            while not self._is_closed and consumer in self._consumers:
                if not self._requests:
                    self._changed.wait()
                    continue
                oldest, max_batch = self._requests[0], self._consumers[consumer]
                batch = [r for r in self._requests if r.key == oldest.key][:max_batch]
                # Of all requests: those of other keys wait behind this batch.
                wait_s = min(map(self._latest_start, self._requests)) - time.monotonic()
                if len(batch) < max_batch and self._decoding and wait_s > 0:
                    self._changed.wait(wait_s)
                    continue
                for request in batch:
                    self._requests.remove(request)
                return batch
        return []

    def _latest_start(self, request: QueuedRequest) -> float:
        """Return the time.monotonic() from which a request waits for no others."""
        under_load_s = min(_DECODE_WAIT_SHARE * request.decode_wait_s, self._max_wait_under_load_s)
        return request.queued_at + max(self._max_wait_s, under_load_s)

    def give_back(self, batch: Sequence[QueuedRequest]) -> None:
        """Return a batch that was taken and has not been run to the front of the queue."""
        with self._changed:
            self._requests.extendleft(reversed(batch))
            self._changed.notify_all()

    def close(self) -> None:
        """Accept no more requests and let the consumers end."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()


def not_served() -> Problem:
    """Return the problem of a request that no worker will run."""
    return Problem(Error.NOT_READY, "The checkpoint is not being served.", retry_after_s=5)
