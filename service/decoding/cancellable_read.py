"""Reading of one request's files in a decoding process, which can be cancelled."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from service.classification.upload_fields import InputFiles
from service.decoding.process import Process


class ReadCancelled(Exception):
    """The request was cancelled, so its files are not read."""


class CancellableRead:
    """The files of a request and the process that reads them, which `cancel` interrupts."""

    def __init__(self, files: InputFiles) -> None:
        self._lock = threading.Lock()
        self._files: InputFiles | None = files
        self._process: Process | None = None

    @property
    def files(self) -> InputFiles:
        """The files. Raises ReadCancelled after `cancel`."""
        files = self._files
        if files is None:
            raise ReadCancelled
        return files

    @contextmanager
    def running_in(self, process: Process) -> Iterator[None]:
        """Note that `process` reads the files in this block, so that `cancel` interrupts it.

        Raises ReadCancelled, instead of the block's own error, where the request was cancelled
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
                is_cancelled = self._files is None
            if is_cancelled:
                raise ReadCancelled

    def cancel(self) -> bool:
        """Interrupt the reading, now or as soon as it begins; return whether a process was reading.

        Returns at once. Drops the files, which the executor's queue would otherwise keep in memory
        with the job.
        """
        with self._lock:
            self._files = None
            if self._process is None:
                return False
            self._process.interrupt()
            return True
