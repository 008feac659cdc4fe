"""A deadline for the client to read a response."""

from __future__ import annotations

from collections.abc import Callable

from service.server.connection_transport import ConnectionTransport
from service.server.timers import Timers


class SendDeadline:
    """Calls `on_expiry` where the kernel has not accepted all of a response within `seconds`.

    The time runs from the first byte of the response that the kernel does not accept.
    """

    def __init__(
        self,
        transport: ConnectionTransport,
        timers: Timers,
        seconds: float,
        on_expiry: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._timers = timers
        self._seconds = seconds
        self._on_expiry = on_expiry
        self._is_writing = False
        self._response_end: int | None = None  # in written bytes; None: not all is written

    def begin_response(self) -> None:
        """Note that a response is being written from now on."""
        if not self._transport.unsent_bytes:
            self._timers.cancel("send")
        self._is_writing = True

    def stall(self) -> None:
        """Note that the kernel does not accept what is written."""
        if not self._timers.is_running("send"):
            self._response_end = None if self._is_writing else self._transport.written_bytes
            self._timers.start("send", self._seconds, self._check)

    def end_response(self) -> None:
        """Note that all of a response has been written."""
        self._is_writing = False
        if not self._timers.is_running("send"):
            if self._transport.unsent_bytes:
                self.stall()
        elif self._response_end is None:
            self._response_end = self._transport.written_bytes

    def _check(self) -> None:
        unsent = self._transport.unsent_bytes
        sent = self._transport.written_bytes - unsent
        if self._response_end is None or sent < self._response_end:
            self._on_expiry()
        elif unsent:  # of a later response
            self.stall()
