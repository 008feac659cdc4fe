"""Whether the client of a connection is still there, while nothing is read from it."""

from __future__ import annotations

import socket
from collections.abc import Callable

from service.server.channel import Channel
from service.server.timers import Timers

#: Seconds between two looks, at first and at most.
_FIRST_LOOK_S, _LONGEST_LOOK_S = 0.02, 1.0

#: A value of tcpi_state, the first byte of struct tcp_info (linux/tcp.h, include/net/tcp_states.h).
_TCP_CLOSE = 7

#: Whether `is_reset` can tell.
CAN_TELL = hasattr(socket, "TCP_INFO")


def is_reset(sock: socket.socket) -> bool:
    """Whether the client's kernel has reset the connection, though nothing was read or written."""
    try:
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE
    except OSError:  # as of a UNIX socket
        return False


class ClientWatch:
    """Aborts a connection whose client has gone, while `is_wanted`: an answer is due.

    A client that has closed its writing side may wait for its answer. One that has gone altogether
    looks the same, until something is sent to it: see Channel.probe, which is used while
    `may_probe`. Where reading is paused not even the end of what it sent may have come.
    """

    def __init__(
        self,
        channel: Channel,
        timers: Timers,
        is_wanted: Callable[[], bool],
        may_probe: Callable[[], bool],
    ) -> None:
        self._channel = channel
        self._timers = timers
        self._is_wanted = is_wanted
        self._may_probe = may_probe

    def start(self) -> None:
        """Look now, and again until no answer is due."""
        if CAN_TELL and not self._timers.is_running("look"):
            self._look(_FIRST_LOOK_S)

    def _look(self, wait_s: float) -> None:
        if is_reset(self._channel.get_extra_info("socket")):
            self._channel.abort()
            return
        if not self._is_wanted():
            return
        if self._may_probe():
            self._channel.probe()
        next_s = min(2 * wait_s, _LONGEST_LOOK_S)
        self._timers.start("look", wait_s, lambda: self._look(next_s))
