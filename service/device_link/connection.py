"""A connection to the process of a device, from the side of the process that has the queues."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

from service.device_link import messages
from service.engine_link.blocks import BlockPool

#: Errors of torch after which a CUDA device fails at everything until its process ends.
FATAL = frozenset({"AcceleratorError"})


class DeviceLost(Exception):
    """The process of a device has ended, or hangs, or its device can run nothing any more."""


class Connection:
    """One caller's requests to the process of a device, one at a time; thread-safe.

    `blocks`: shared memory for the tensors of its requests and results.
    """

    def __init__(self, calls: socket.socket, blocks: socket.socket) -> None:
        self.blocks = BlockPool(blocks)
        self._calls = calls
        self._block_socket = blocks
        self._lock = threading.Lock()
        #: Whether the other end is closed.
        self.is_lost = False

    @property
    def is_busy(self) -> bool:
        """Whether a call waits for its reply."""
        return self._lock.locked()

    def call(
        self, method: str, arguments: dict[str, Any], until: float | None = None
    ) -> dict[str, Any]:
        """Call a method and return its reply, waiting until time.monotonic() is `until`.

        Raises DeviceLost.
        """
        with self._lock:
            dropped = []
            while self.blocks.dropped:
                dropped.append(self.blocks.dropped.popleft())
            try:
                remaining = None if until is None else max(0.01, until - time.monotonic())
                self._calls.settimeout(remaining)
                messages.send(self._calls, {"method": method, "drop": dropped, **arguments})
                return messages.receive(self._calls)
            except OSError as exc:
                self.is_lost = True
                raise DeviceLost(f"the process of the device does not answer: {exc}") from exc

    def close(self) -> None:
        """Close it; the other process then forgets the network that was loaded through it."""
        self._calls.close()
        self._block_socket.close()
