"""Reading what nobody wants, so that a client can read its answer."""

from __future__ import annotations

from service.server.channel import Channel
from service.server.limits import ConnectionLimits
from service.server.timers import Timers
from service.server.work_budget import Budget


class Lingering:
    """Keeps a connection open behind its last answer, and drops what comes on it.

    A socket that is closed with bytes unread resets its connection, and a client that is still
    sending then loses the answer. What is dropped is limited in size and rate, and the time by
    `linger_s`.
    """

    def __init__(self, channel: Channel, timers: Timers, limits: ConnectionLimits) -> None:
        self._channel = channel
        self._timers = timers
        self._seconds = limits.linger_s
        self._budget = Budget(limits.slice_bytes, limits.linger_bytes_per_s)
        self.bytes_left = limits.linger_bytes
        self.has_begun = False

    def begin(self) -> None:
        """Send FIN behind what was written, and end the connection in a while."""
        self.has_begun = True
        self._channel.end_writing()
        self._channel.read_on()
        self._timers.start("linger", self._seconds, self._end)

    def drop(self, size: int) -> None:
        """Count bytes that are dropped. Aborts the connection where they are too many."""
        self.bytes_left -= size
        if self.bytes_left < 0:
            self._channel.abort()
            return
        self._budget.spend(size)
        wait_s = self._budget.wait_s()
        if wait_s:
            self._channel.throttle(True)
            self._timers.start("drop", wait_s, lambda: self._channel.throttle(False))

    def _end(self) -> None:
        if self._channel.unsent_bytes:  # the limit on sending ends it
            self._timers.start("linger", self._seconds, self._end)
        else:
            self._channel.abort()
