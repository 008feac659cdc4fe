"""Counters in memory that the engine process and the HTTP workers share, read without a message.

Each number has one writer, except the last rejection of a checkpoint, where any order is right. All
are aligned words of 64 bits, which are written and read as a whole.
"""

from __future__ import annotations

import math
import mmap
import os
import weakref

import numpy as np

from service.settings import MAX_HTTP_WORKERS

#: Most checkpoints at a time, with those that are being replaced.
MAX_CHECKPOINTS = 512
#: Most HTTP workers.
MAX_WORKERS = MAX_HTTP_WORKERS
#: Numbers of a worker before its requests of each checkpoint: those that were cancelled while the
#: service drained, bytes of uploads, and when it was last seen alive (time.monotonic_ns).
_CANCELLED, _UPLOADS, _ALIVE = 0, 1, 2
_HOLDS = 3
_WORD = 8


class Board:
    """The shared counters: a row for each worker, and what the engine process tells all of them.

    `fd`: of the memory of another process's board; None: make one. Raises OSError.
    """

    def __init__(self, fd: int | None = None) -> None:
        width = _HOLDS + MAX_CHECKPOINTS
        size = _WORD * (MAX_WORKERS * width + 1 + 3 * MAX_CHECKPOINTS)
        self.fd = os.memfd_create("scmrl-board") if fd is None else fd
        if fd is None:
            os.ftruncate(self.fd, size)
        words = np.frombuffer(mmap.mmap(self.fd, size), np.int64)
        self._rows = words[: MAX_WORKERS * width].reshape(MAX_WORKERS, width)
        self._holds = self._rows[:, _HOLDS:]
        self._draining = words[MAX_WORKERS * width :][:1]
        #: By checkpoint: requests in flight, completed requests a second, and the last rejection.
        self._loads = words[MAX_WORKERS * width + 1 :].reshape(3, MAX_CHECKPOINTS)
        self._free = list(range(MAX_CHECKPOINTS))

    # --- of the engine process -------------------------------------------------------------------

    def begin_draining(self) -> None:
        self._draining[0] = 1

    def make_load(self) -> SharedLoad:
        """Return the load of a further checkpoint; its column is free again when that is dropped.

        Raises RuntimeError where there are MAX_CHECKPOINTS.
        """
        try:
            column = self._free.pop()
        except IndexError:
            raise RuntimeError(f"at most {MAX_CHECKPOINTS} checkpoints can be loaded") from None
        load = SharedLoad(self._loads, column)
        load.in_flight, load.completion_rate, load.rejected_at = 0, 0.0, -math.inf
        weakref.finalize(load, self._free.append, column)
        return load

    def holds(self, column: int) -> int:
        """Return the requests of all workers that hold a checkpoint."""
        return int(self._holds[:, column].sum())

    @property
    def total_holds(self) -> int:
        """The requests in flight of all workers."""
        return int(self._holds.sum())

    @property
    def cancelled(self) -> int:
        """The requests that were cancelled while the service drained."""
        return int(self._rows[:, _CANCELLED].sum())

    def clear(self, worker: int) -> None:
        """Forget a worker that has ended."""
        self._rows[worker] = 0

    def silent_s(self, worker: int, now_ns: int) -> float | None:
        """Return the seconds since a worker was last seen alive; None where it never was."""
        alive = int(self._rows[worker, _ALIVE])
        return (now_ns - alive) / 1e9 if alive else None

    # --- of any process --------------------------------------------------------------------------

    @property
    def is_draining(self) -> bool:
        return bool(self._draining[0])

    @property
    def uploads(self) -> int:
        """Bytes of the uploads of all workers."""
        return int(self._rows[:, _UPLOADS].sum())

    def load(self, column: int) -> SharedLoad:
        """Return the load of a checkpoint by its column."""
        return SharedLoad(self._loads, column)

    def row(self, worker: int) -> Row:
        """Return the numbers of one worker, for its process alone to write."""
        return Row(self._rows[worker], self._holds[worker], self)


class Row:
    """The numbers of one HTTP worker, written by its event loop."""

    def __init__(
        self,
        numbers: np.ndarray[tuple[int], np.dtype[np.int64]],
        holds: np.ndarray[tuple[int], np.dtype[np.int64]],
        board: Board,
    ) -> None:
        self._numbers = numbers
        self._holds = holds
        self.board = board

    def hold(self, column: int, change: int) -> None:
        """Count a request that holds a checkpoint (1), or no longer does (-1)."""
        self._holds[column] += change

    def count_cancelled(self) -> None:
        self._numbers[_CANCELLED] += 1

    def add_upload(self, size: int) -> int:
        """Count bytes of uploads; return those of all workers."""
        self._numbers[_UPLOADS] += size
        return self.board.uploads

    def note_alive(self, now_ns: int) -> None:
        self._numbers[_ALIVE] = now_ns


class SharedLoad:
    """The load of a checkpoint, `service.inference.admission.Load`, in shared memory.

    The engine process writes all of it; a worker that rejects a request writes `rejected_at`.
    """

    def __init__(self, loads: np.ndarray[tuple[int, int], np.dtype[np.int64]], column: int) -> None:
        self.column = column
        self._counts = loads[:, column]
        self._seconds = loads.view(np.float64)[:, column]

    @property
    def in_flight(self) -> int:
        return int(self._counts[0])

    @in_flight.setter
    def in_flight(self, value: int) -> None:
        self._counts[0] = value

    @property
    def completion_rate(self) -> float:
        return float(self._seconds[1])

    @completion_rate.setter
    def completion_rate(self, value: float) -> None:
        self._seconds[1] = value

    @property
    def rejected_at(self) -> float:
        return float(self._seconds[2])

    @rejected_at.setter
    def rejected_at(self, value: float) -> None:
        self._seconds[2] = value
