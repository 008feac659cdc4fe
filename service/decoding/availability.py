"""The state of the decoder pool: whether it can decode."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from enum import Enum

from service.decoding.fork_server import FailedStarts

log = logging.getLogger("scmrl.decoding")

#: Consecutive starts that fail before the pool fails.
_MAX_FAILED_STARTS = 3
#: Seconds for which starts have to fail before a pool that has started processes fails.
_GIVE_UP_S = 120.0


class DecodingUnavailable(Exception):
    """No file can be decoded, now or later. The message has the reason, for the operator."""


class State(Enum):
    """States of the pool. `Availability` documents the transitions."""

    STARTING = "no file has been read yet"
    READY = "a process has read a file, or refused it"
    FAILING = "the last start of a process failed"
    FAILED = "starts failed for too long"
    STOPPED = "the service stops"


class Availability:
    """The state of the pool. Thread-safe.

        STARTING ──a file was read──▶ READY
        STARTING, READY ──a start failed──▶ FAILING
        FAILING ──a start succeeded──▶ STARTING, or READY if a file was read before
        FAILING ──starts keep failing──▶ FAILED
        any state ──stop──▶ STOPPED

    A pool fails after three failed starts; one that has started a process before, only
    after two minutes of them. `on_failed` is called then, once.
    """

    def __init__(self, on_failed: Callable[[DecodingUnavailable], None]) -> None:
        self._on_failed = on_failed
        self._lock = threading.Lock()
        self._state = State.STARTING
        self._has_read_file = False
        #: Set when the first process was started, or the pool failed or was stopped.
        self._first_start = threading.Event()

    @property
    def state(self) -> State:
        return self._state

    @property
    def is_over(self) -> bool:
        """Whether no file will be decoded any more."""
        return self._state in (State.FAILED, State.STOPPED)

    def wait_for_first_start(self) -> None:
        """Wait until the first process was started, or the pool has failed or was stopped."""
        self._first_start.wait()

    def note_start(self) -> None:
        """A process was started."""
        with self._lock:
            if self._state is State.FAILING:
                self._state = State.READY if self._has_read_file else State.STARTING
        self._first_start.set()

    def note_read(self) -> None:
        """A process has read a file, or refused it."""
        with self._lock:
            self._has_read_file = True
            if self._state is State.STARTING:
                self._state = State.READY

    def note_failed_start(self, reason: str, failed_starts: FailedStarts | None) -> None:
        """A process could not be started; `failed_starts` are those of the fork server."""
        with self._lock:
            previous = self._state
            if self.is_over:
                return
            self._state = State.FAILING
            if failed_starts is not None and self._is_hopeless(failed_starts):
                self._state = State.FAILED
        if previous is not State.FAILING:
            log.error("%s", reason)
        if self._state is State.FAILED:
            self._first_start.set()
            self._on_failed(DecodingUnavailable(reason))

    def stop(self) -> None:
        with self._lock:
            self._state = State.STOPPED
        self._first_start.set()

    def _is_hopeless(self, failed_starts: FailedStarts) -> bool:
        if failed_starts.count < _MAX_FAILED_STARTS:
            return False
        seconds = time.monotonic() - failed_starts.since
        return not self._first_start.is_set() or seconds > _GIVE_UP_S
