"""Detection of clients that have disconnected, while nothing is read from them."""

from __future__ import annotations

import socket
from collections.abc import Callable

from service.server.connection_transport import ConnectionTransport
from service.server.timers import Timers

#: Seconds between two checks, at first and at most.
_FIRST_WAIT_S, _MAX_WAIT_S = 0.02, 1.0

#: Value of tcpi_state, the first byte of struct tcp_info (linux/tcp.h, include/net/tcp_states.h).
_TCP_CLOSE = 7

#: Whether `is_reset` works on this system.
CAN_DETECT_RESET = hasattr(socket, "TCP_INFO")


def is_reset(sock: socket.socket) -> bool:
    """Return whether the client's kernel has reset the connection; reads and writes nothing."""
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE
    except OSError:  # as of a UNIX socket
        return False


class ClientWatch:
    """Aborts a connection whose client has gone, while a request is in flight.

    A client that has closed its writing side may wait for its response. A client that has gone
    altogether looks the same until something is sent to it, so the first bytes of the status line
    are sent early as a probe, where `may_probe()` (see ConnectionTransport.probe). While reading is
    paused, even a FIN is not seen.
    """

    def __init__(
        self,
        transport: ConnectionTransport,
        timers: Timers,
        is_in_flight: Callable[[], bool],
        may_probe: Callable[[], bool],
    ) -> None:
        self._transport = transport
        self._timers = timers
        self._is_in_flight = is_in_flight
        self._may_probe = may_probe

    def start(self) -> None:
        """Check now, and again until no request is in flight."""
        if CAN_DETECT_RESET and not self._timers.is_running("client"):
            self._check(_FIRST_WAIT_S)

    def _check(self, wait_s: float) -> None:
        if is_reset(self._transport.get_extra_info("socket")):
            self._transport.abort()
            return
        if not self._is_in_flight():
            return
        if self._may_probe():
            self._transport.probe()
        next_s = min(2 * wait_s, _MAX_WAIT_S)
        self._timers.start("client", wait_s, lambda: self._check(next_s))
