"""Lingering close: the server reads on for a while, so that the client can read its response."""

from __future__ import annotations

from service.runtime.token_bucket import TokenBucket
from service.server.connection_transport import ConnectionTransport
from service.server.limits import ConnectionLimits
from service.server.timers import Timers


class LingeringClose:
    """Keeps a connection open after its last response, and drops what it receives.

    Closing a socket with unread bytes resets the connection, and a client that is still sending
    then loses the response. Bytes, rate and time are limited: see ConnectionLimits.
    """

    def __init__(
        self, transport: ConnectionTransport, timers: Timers, limits: ConnectionLimits
    ) -> None:
        self._transport = transport
        self._timers = timers
        self._seconds = limits.linger_s
        self._budget = TokenBucket(limits.slice_bytes, limits.linger_bytes_per_s)
        self.bytes_left = limits.linger_bytes
        self.has_begun = False

    def begin(self) -> None:
        """Send FIN after what was written, and end the connection after `linger_s`."""
        self.has_begun = True
        self._transport.end_writing()
        self._transport.read_on()
        self._timers.start("linger", self._seconds, self._end)

    def drop(self, size: int) -> None:
        """Count `size` dropped bytes; abort the connection where they are too many."""
        self.bytes_left -= size
        if self.bytes_left < 0:
            self._transport.abort()
            return
        self._budget.spend(size)
        wait_s = self._budget.wait_s()
        if wait_s:
            self._transport.throttle(True)
            self._timers.start("drop", wait_s, lambda: self._transport.throttle(False))

    def _end(self) -> None:
        if self._transport.unsent_bytes:  # the send deadline ends it
            self._timers.start("linger", self._seconds, self._end)
        else:
            self._transport.abort()
