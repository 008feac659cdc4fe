"""Loads of checkpoints: one at a time, one a name, each in a thread of its own and given up after
a limit. A disk that hangs costs its own load, and no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from service.errors import Error, Problem

#: Name of the threads that load checkpoints.
LOADING = "scmrl-load"
#: Detail of the problem that a load gets then.
STOPPING = "The service is being stopped."
#: Most loads and unloads at a time, with those that wait and those that were given up and hang.
_MOST = 16
#: Seconds between two looks at whether the service is being stopped.
_LOOK_S = 0.05


class GivenUp(Exception):
    """A load took longer than its limit; its thread, if it ever ends, changes nothing."""


class Attempt:
    """A load. `commit` decides between its success and its being given up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ended = threading.Event()
        self.error: BaseException | None = None
        self._lock = threading.Lock()
        self._is_committed = self._is_given_up = False

    def commit(self) -> bool:
        """Whether the result may be served: not where the load was given up before."""
        with self._lock:
            self._is_committed = not self._is_given_up
            return self._is_committed

    def give_up(self) -> bool:
        """Whether the load is given up now: not where its result is served already."""
        with self._lock:
            self._is_given_up = not self._is_committed
            return self._is_given_up


class Loads:
    """Runs loads one after another, each for `limit_s` seconds at most.

    A load that is given up does not hold up the next one. Its name stays reserved until its thread
    ends, so that a disk that hangs collects one thread a name and `_MOST` in all.
    """

    def __init__(self, limit_s: float, is_stopping: Callable[[], bool]) -> None:
        self._limit_s = limit_s
        self._is_stopping = is_stopping
        self._turn = threading.Lock()
        self._lock = threading.Lock()  # held for moments only
        self._reserved: dict[str, Attempt] = {}

    def reserve(self, name: str) -> Attempt:
        """Reserve a name until `release`. Raises Problem CONFLICT where it is reserved."""
        with self._lock:
            if name in self._reserved:
                detail = (
                    f"{name[:100]!r} is being loaded or unloaded already, or a load of it that was "
                    "given up has not ended; ask again when it has."
                )
                raise Problem(Error.CONFLICT, detail)
            if len(self._reserved) >= _MOST:
                detail = f"{_MOST} checkpoints are being loaded or unloaded; ask again later."
                raise Problem(Error.CONFLICT, detail)
            attempt = self._reserved[name] = Attempt(name)
            return attempt

    def release(self, attempt: Attempt) -> None:
        """Let the name be loaded again."""
        with self._lock:
            self._reserved.pop(attempt.name, None)

    def run(self, attempt: Attempt, work: Callable[[], object]) -> None:
        """Run `work`, which loads a reserved checkpoint, when it is its turn; then release it.

        Waits in the calling thread for at most the limit. Work that has been committed goes on
        behind it. Raises GivenUp, Problem STOPPING, and what `work` raises.
        """
        try:
            self._take_turn()
        except Problem:
            self.release(attempt)
            raise
        try:
            threading.Thread(
                target=self._work, args=(attempt, work), name=LOADING, daemon=True
            ).start()
            self._wait(attempt)
        finally:
            self._turn.release()
        if attempt.error is not None:
            raise attempt.error

    def _take_turn(self) -> None:
        while not self._turn.acquire(timeout=_LOOK_S):
            self._check_stopping()
        try:
            self._check_stopping()
        except Problem:
            self._turn.release()
            raise

    def _work(self, attempt: Attempt, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as exc:
            attempt.error = exc
        finally:
            self.release(attempt)
            attempt.ended.set()

    def _wait(self, attempt: Attempt) -> None:
        """Wait for the end of a load, or give it up."""
        end = time.monotonic() + self._limit_s
        while not attempt.ended.wait(_LOOK_S):
            if self._is_stopping() and attempt.give_up():
                raise Problem(Error.STOPPING, STOPPING)
            if time.monotonic() >= end:
                if attempt.give_up():
                    raise GivenUp(f"loading it took longer than {self._limit_s:g} s")
                return

    def _check_stopping(self) -> None:
        if self._is_stopping():
            raise Problem(Error.STOPPING, STOPPING)
