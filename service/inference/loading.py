"""Load attempts: one per name at a time, each in a thread of its own and within a time limit.

A disk that hangs costs its own load only. Files are read concurrently; what takes the cores or
the devices (warming up, compiling) is done by one load after another.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import Error, Problem

#: Name of the threads that load checkpoints.
LOAD_THREAD = "scmrl-load"
#: Detail of the problem of a load, and of /readyz, while the service is being stopped.
STOPPING = "The service is being stopped."
#: Most loads and unloads at a time, including those that were given up and have not ended.
MOST_LOADS = 16
#: Retry-After in seconds: while another load runs, and while one that was given up waits for its
#: disk.
_RETRY_S, _RETRY_DISK_S = 5.0, 60.0
#: Seconds between two checks of whether the service is being stopped.
_LOOK_S = 0.05


class GivenUp(Exception):
    """A load took longer than its limit. Its thread, if it ever ends, changes nothing."""


class Attempt:
    """A load of one checkpoint.

    State: running -> committed | given up. `commit` and `give_up` decide it, whichever comes first.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.ended = threading.Event()
        self.error: BaseException | None = None
        #: Seconds that it has waited for its turn, which do not count for its limit.
        self.waited_s = 0.0
        #: Its limit is over: no other load waits for it.
        self.is_overdue = False
        self._lock = threading.Lock()
        self._is_committed = self._is_given_up = False

    def commit(self) -> bool:
        """Return whether the result may be served: not if the load was given up before."""
        with self._lock:
            self._is_committed = not self._is_given_up
            return self._is_committed

    def give_up(self) -> bool:
        """Return whether the load is given up now: not if its result is served already."""
        with self._lock:
            self._is_given_up = not self._is_committed
            return self._is_given_up

    @property
    def is_given_up(self) -> bool:
        return self._is_given_up


class Loads:
    """Runs loads concurrently, each for `limit_s` seconds at most.

    The name of a load that is given up stays reserved until its thread ends, so that a disk that
    hangs collects one thread a name, and `MOST_LOADS` in all.
    """

    def __init__(self, limit_s: float, is_stopping: Callable[[], bool]) -> None:
        self.limit_s = limit_s
        self._is_stopping = is_stopping
        self._lock = threading.Lock()  # held for moments only
        #: Loads and unloads that have not ended, by name.
        self.reserved: dict[str, Attempt] = {}
        self._turn = threading.Condition()
        #: The load whose turn it is.
        self.computing: Attempt | None = None

    def reserve(self, name: str) -> Attempt:
        """Reserve a name until `release`.

        Raises Problem CONFLICT if it is reserved, FULL if `MOST_LOADS` have not ended.
        """
        with self._lock:
            other = self.reserved.get(name)
            if other is not None:
                raise _conflict(other)
            if len(self.reserved) >= MOST_LOADS:
                raise _full(self.reserved)
            attempt = self.reserved[name] = Attempt(name)
            return attempt

    def release(self, attempt: Attempt) -> None:
        """Let the name be loaded again."""
        with self._lock:
            self.reserved.pop(attempt.name, None)

    def run(self, attempt: Attempt, work: Callable[[], object]) -> None:
        """Run `work`, which loads a reserved checkpoint, in a thread; then release the name.

        Waits in the calling thread for at most the limit, not counting what `work` waits in
        `turn`. Committed work continues in the background at the limit. Raises GivenUp, Problem
        STOPPING, and what `work` raises.
        """
        if self._is_stopping():
            self.release(attempt)
            raise Problem(Error.STOPPING, STOPPING)
        thread = threading.Thread(
            target=self._work, args=(attempt, work), name=LOAD_THREAD, daemon=True
        )
        thread.start()
        self._wait(attempt)
        if attempt.error is not None:
            try:
                raise attempt.error
            finally:
                attempt.error = None  # its traceback refers to this frame: a cycle

    @contextmanager
    def turn(self, attempt: Attempt) -> Iterator[None]:
        """Hold the cores and devices for a part of a load, one load at a time.

        A load that is overdue is not waited for. Raises GivenUp and Problem STOPPING.
        """
        with self._turn:
            self._check(attempt)
            while self.computing is not None and not self.computing.is_overdue:
                began = time.monotonic()
                self._turn.wait(_LOOK_S)
                attempt.waited_s += time.monotonic() - began
                self._check(attempt)
            self.computing = attempt
        try:
            yield
        finally:
            with self._turn:
                if self.computing is attempt:
                    self.computing = None
                self._turn.notify_all()

    def _check(self, attempt: Attempt) -> None:
        if self._is_stopping():
            raise Problem(Error.STOPPING, STOPPING)
        if attempt.is_given_up:
            raise GivenUp(self._too_long)

    def _work(self, attempt: Attempt, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as exc:
            _clear_frames(exc)
            attempt.error = exc
        finally:
            self.release(attempt)
            attempt.ended.set()

    def _wait(self, attempt: Attempt) -> None:
        """Wait for the end of a load, or give it up."""
        began = time.monotonic()
        while not attempt.ended.wait(_LOOK_S):
            if self._is_stopping() and attempt.give_up():
                raise Problem(Error.STOPPING, STOPPING)
            if time.monotonic() - began - attempt.waited_s >= self.limit_s:
                attempt.is_overdue = True
                if attempt.give_up():
                    raise GivenUp(self._too_long)
                return

    @property
    def _too_long(self) -> str:
        return f"loading it took longer than {self.limit_s:g} s"


def _clear_frames(exc: BaseException) -> None:
    """Release the variables of an error's frames: a checkpoint's file, tensors, network."""
    error: BaseException | None = exc
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def timed_out(detail: str) -> Problem:
    """Return the problem of a request whose load was given up."""
    return Problem(Error.LOAD_TIMEOUT, detail, retry_after_s=_RETRY_DISK_S)


def _conflict(other: Attempt) -> Problem:
    name = repr(other.name[:100])
    if not other.is_given_up:
        detail = f"{name} is being loaded or unloaded already. Retry when that has ended."
        return Problem(Error.CONFLICT, detail, retry_after_s=_RETRY_S)
    detail = (
        f"A load of {name} was given up and still waits for its disk. Retry when the disk answers."
    )
    return Problem(Error.CONFLICT, detail, retry_after_s=_RETRY_DISK_S)


def _full(reserved: dict[str, Attempt]) -> Problem:
    given_up = sum(attempt.is_given_up for attempt in reserved.values())
    detail = (
        f"{len(reserved)} loads and unloads of checkpoints have not ended, which is the limit; "
        f"{given_up} of them were given up and still wait for their disk."
    )
    return Problem(Error.FULL, detail, retry_after_s=_RETRY_DISK_S if given_up else _RETRY_S)
