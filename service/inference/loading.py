"""Load attempts: one per name at a time, each in a thread of its own and within a time limit.

A disk that hangs blocks its own load only. Files are read concurrently; warm-up and compilation,
which take the cores or the devices, run one load at a time.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from service.errors import Error, Problem

log = logging.getLogger("scmrl.registry")

#: Name of the threads that load checkpoints.
LOAD_THREAD = "scmrl-load"
#: Detail of the problem of a load, and of /readyz, while the service is shutting down.
STOPPING = "The service is shutting down."
#: Maximum loads and unloads at a time, including those over their limit that have not ended.
MAX_LOADS = 16
#: Retry-After in seconds: while another load runs, and while one that was abandoned waits for its
#: disk.
_RETRY_S, _RETRY_DISK_S = 5.0, 60.0
#: Seconds between two checks of whether the service is shutting down.
_POLL_INTERVAL_S = 0.05


class LoadAbandoned(Exception):
    """A load took longer than its limit. Its thread, if it ever ends, changes nothing."""


class Attempt:
    """A load of one checkpoint.

    State: running -> committed | abandoned, by the first call of `commit` or `abandon`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.ended = threading.Event()
        self.error: BaseException | None = None
        #: Seconds that it has waited for the cores and devices; not counted towards its limit.
        self.waited_s = 0.0
        #: Whether its time limit has passed; other loads do not wait for it then.
        self.is_overdue = False
        self._lock = threading.Lock()
        self._is_committed = self._is_abandoned = False

    def commit(self) -> bool:
        """Mark the load as committed: its result is served. Return False if it was abandoned."""
        with self._lock:
            self._is_committed = not self._is_abandoned
            return self._is_committed

    def abandon(self) -> bool:
        """Mark the load as abandoned. Return False if it was committed."""
        with self._lock:
            self._is_abandoned = not self._is_committed
            return self._is_abandoned

    @property
    def is_abandoned(self) -> bool:
        return self._is_abandoned


class Loads:
    """Runs loads concurrently, each for `limit_s` seconds at most.

    The name of an abandoned load stays reserved until its thread ends, so that a disk that hangs
    blocks at most one thread per name, and `MAX_LOADS` in all. That of a committed load over its
    limit is free again: the compiler of its fused path may hang for ever, while it is served.
    """

    def __init__(self, limit_s: float, is_stopping: Callable[[], bool]) -> None:
        self.limit_s = limit_s
        self._is_stopping = is_stopping
        self._lock = threading.Lock()  # held for moments only
        #: Loads and unloads by the names that they reserve, and all that have not ended.
        self.reserved: dict[str, Attempt] = {}
        self._unended: set[Attempt] = set()
        self._compute_condition = threading.Condition()
        #: The load that holds the cores and devices.
        self.compute_holder: Attempt | None = None

    def reserve(self, name: str) -> Attempt:
        """Reserve a name until `release`.

        Raises Problem CONFLICT if it is reserved, FULL if `MAX_LOADS` have not ended.
        """
        with self._lock:
            reserved_by = self.reserved.get(name)
            if reserved_by is not None:
                raise _conflict(reserved_by)
            if len(self._unended) >= MAX_LOADS:
                raise _full(self._unended)
            attempt = self.reserved[name] = Attempt(name)
            self._unended.add(attempt)
            return attempt

    def release(self, attempt: Attempt) -> None:
        """Note the end of a load or unload, and let the name be loaded again."""
        with self._lock:
            self._unended.discard(attempt)
            self._free_name(attempt)

    def _free_name(self, attempt: Attempt) -> None:
        if self.reserved.get(attempt.name) is attempt:  # else another load has it
            del self.reserved[attempt.name]

    def run(self, attempt: Attempt, work: Callable[[], object]) -> None:
        """Run `work`, which loads a reserved checkpoint, in a thread; then release the name.

        Waits in the calling thread for at most the limit, not counting what `work` waits in
        `exclusive_compute`. Committed work continues in the background at the limit, from which on
        the name is free. Raises
        LoadAbandoned, Problem STOPPING, MemoryError where no thread can be started, and what `work`
        raises.
        """
        if self._is_stopping():
            self.release(attempt)
            raise Problem(Error.STOPPING, STOPPING)
        thread = threading.Thread(
            target=self._work, args=(attempt, work), name=LOAD_THREAD, daemon=True
        )
        try:
            thread.start()
        except RuntimeError as exc:  # the number of threads, or memory, is limited
            self.release(attempt)
            raise MemoryError(str(exc)) from exc
        self._wait(attempt)
        if attempt.error is not None:
            try:
                raise attempt.error
            finally:
                attempt.error = None  # its traceback refers to this frame: a cycle

    @contextmanager
    def exclusive_compute(self, attempt: Attempt) -> Iterator[None]:
        """Hold the cores and devices for a part of a load, one load at a time.

        Does not wait for a load that is overdue. Raises LoadAbandoned and Problem STOPPING.
        """
        with self._compute_condition:
            self._check(attempt)
            while self.compute_holder is not None and not self.compute_holder.is_overdue:
                began = time.monotonic()
                self._compute_condition.wait(_POLL_INTERVAL_S)
                attempt.waited_s += time.monotonic() - began
                self._check(attempt)
            self.compute_holder = attempt
        try:
            yield
        finally:
            with self._compute_condition:
                if self.compute_holder is attempt:
                    self.compute_holder = None
                self._compute_condition.notify_all()

    def _check(self, attempt: Attempt) -> None:
        if self._is_stopping():
            raise Problem(Error.STOPPING, STOPPING)
        if attempt.is_abandoned:
            raise LoadAbandoned(self._too_long)

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
        """Wait for the end of a load, or abandon it at its limit."""
        began = time.monotonic()
        while not attempt.ended.wait(_POLL_INTERVAL_S):
            if self._is_stopping() and attempt.abandon():
                raise Problem(Error.STOPPING, STOPPING)
            if time.monotonic() - began - attempt.waited_s >= self.limit_s:
                attempt.is_overdue = True
                if attempt.abandon():
                    raise LoadAbandoned(self._too_long)
                with self._lock:
                    self._free_name(attempt)
                log.warning(
                    "checkpoint %s is served, but its fused path is not ready after %g s "
                    "(SCMRL_LOAD_TIMEOUT_S)", attempt.name, self.limit_s,
                )  # fmt: skip
                return

    @property
    def _too_long(self) -> str:
        return f"loading took longer than {self.limit_s:g} s"


def _clear_frames(exc: BaseException) -> None:
    """Release the variables of an error's frames: a checkpoint's file, tensors, network."""
    error: BaseException | None = exc
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def timed_out(detail: str) -> Problem:
    """Return the problem of a request whose load was abandoned."""
    return Problem(Error.LOAD_TIMEOUT, detail, retry_after_s=_RETRY_DISK_S)


def _conflict(reserved_by: Attempt) -> Problem:
    name = repr(reserved_by.name[:100])
    if not reserved_by.is_abandoned:
        detail = f"{name} is already being loaded or unloaded. Retry when that has ended."
        return Problem(Error.CONFLICT, detail, retry_after_s=_RETRY_S)
    detail = (
        f"An abandoned load of {name} still waits for its disk or device. Retry when that responds."
    )
    return Problem(Error.CONFLICT, detail, retry_after_s=_RETRY_DISK_S)


def _full(unended: Collection[Attempt]) -> Problem:
    overdue = sum(attempt.is_overdue for attempt in unended)
    detail = (
        f"{len(unended)} loads and unloads of checkpoints have not ended; at most {MAX_LOADS} run "
        f"at a time. {overdue} of them exceeded their limit and still wait for their disk, device "
        "or compiler."
    )
    return Problem(Error.FULL, detail, retry_after_s=_RETRY_DISK_S if overdue else _RETRY_S)
