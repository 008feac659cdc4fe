"""One request's files in a decoding process, until its client has gone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from service.decoding.process import Process


class Abandoned(Exception):
    """Nobody waits for the result any more."""


class Reading:
    """Ties a request to the process that reads its files, so that it can be interrupted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: Process | None = None
        self._abandoned = False

    @contextmanager
    def by(self, process: Process) -> Iterator[None]:
        """Let `process` read in this block.

        Raises Abandoned, in place of whatever the block raises, where the request was abandoned
        before the block ended. The process must then be ended: it may still be reading.
        """
        with self._lock:
            if self._abandoned:
                raise Abandoned
            self._process = process
        try:
            yield
        finally:
            with self._lock:
                self._process = None
                abandoned = self._abandoned
            if abandoned:
                raise Abandoned

    def abandon(self) -> None:
        """Interrupt the reading, now or as soon as it begins; returns at once."""
        with self._lock:
            self._abandoned = True
            if self._process is not None:
                self._process.interrupt()
