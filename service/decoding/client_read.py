"""One request's files in a decoding process, until its client has gone."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from service.classification.upload_fields import InputFiles
from service.decoding.process import Process


class ReadCancelled(Exception):
    """Nobody waits for the result any more."""


class CancellableRead:
    """Ties a request's files to the process that reads them, so that it can be interrupted."""

    def __init__(self, files: InputFiles) -> None:
        self._lock = threading.Lock()
        self._files: InputFiles | None = files
        self._process: Process | None = None

    @property
    def files(self) -> InputFiles:
        """The files. Raises ReadCancelled, once they have been let go."""
        files = self._files
        if files is None:
            raise ReadCancelled
        return files

    @contextmanager
    def running_in(self, process: Process) -> Iterator[None]:
        """Let `process` read in this block.

        Raises ReadCancelled, in place of whatever the block raises, where the request was abandoned
        before the block ended. The process must then be ended: it may still be reading.
        """
        with self._lock:
            if self._files is None:
                raise ReadCancelled
            self._process = process
        try:
            yield
        finally:
            with self._lock:
                self._process = None
                abandoned = self._files is None
            if abandoned:
                raise ReadCancelled

    def cancel(self) -> None:
        """Interrupt the reading, now or as soon as it begins, and let the files go, which the
        queue would hold for as long as it holds the job; returns at once."""
        with self._lock:
            self._files = None
            if self._process is not None:
                self._process.interrupt()
