"""One device, and its process, which is replaced when it has ended."""

from __future__ import annotations

import threading
import time

from service.device_link.connection import DeviceLost
from service.device_link.process import DeviceProcess, ProcessOptions
from service.runtime.backoff import backoff_s

#: Wait before a process is started again that ended before it had run a network, in seconds:
#: doubled each time, up to the longest.
_RETRY_S, _MAX_RETRY_S = 1.0, 30.0


class Device:
    """One device, which has another process when the one before has ended.

    Processes that fail before they have run a network are started after longer and longer waits.
    """

    def __init__(self, name: str, options: ProcessOptions) -> None:
        self.name = name
        self._options = options
        self._lock = threading.Lock()
        self._process: DeviceProcess | None = None
        self._is_stopped = False
        self._starts = 0  # since a network was run
        self._retry_at = 0.0

    def process(self) -> DeviceProcess:
        """Return its process, started if there is none. Raises DeviceLost."""
        with self._lock:
            if self._process is not None and self._process.is_usable:
                return self._process
            now = time.monotonic()
            if self._is_stopped:
                raise DeviceLost("the service is shutting down")
            if now < self._retry_at:
                raise DeviceLost(f"the process of {self.name} has just failed")
            self._starts += 1
            self._retry_at = now + backoff_s(self._starts, _RETRY_S, _MAX_RETRY_S)
            self._process = DeviceProcess(self.name, self._options)
            return self._process

    def note_success(self) -> None:
        """Note that a network has been run: if the process ends, another is started at once."""
        with self._lock:
            self._starts, self._retry_at = 0, 0.0

    @property
    def pid(self) -> int | None:
        """The id of its process; None where it has none."""
        process = self._process
        return process.pid if process is not None and process.is_usable else None

    def begin_stop(self) -> None:
        """Let its process end, and start no other."""
        with self._lock:
            self._is_stopped = True
            if self._process is not None:
                self._process.begin_stop()

    def stop(self, until: float) -> None:
        """End its process, which is killed when time.monotonic() is `until`, and start no other."""
        self.begin_stop()
        if self._process is not None:
            self._process.stop(until)
