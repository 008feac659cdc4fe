"""One decoding process, as the service sees it."""

from __future__ import annotations

import socket

from service.decoding import wire
from service.decoding.job import Decoded, Wanted
from service.decoding.last_words import LastWords
from service.form import Media


class Process:
    """A decoding process, idle or at its one job; `last_words` is its stderr."""

    def __init__(self, pid: int, sock: socket.socket, last_words: LastWords) -> None:
        self.pid = pid
        self.jobs = 0
        self.since = 0.0  # time.monotonic() of its last job's begin
        self.last_words = last_words
        self._sock = sock

    @property
    def gone(self) -> bool:
        """Whether it has ended (or speaks unasked), of one that has nothing to do."""
        try:
            self._sock.setblocking(False)
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def decode(self, files: Media, wanted: Wanted, seconds: float) -> Decoded:
        """Raises Problem, RuntimeError, Lost, or TimeoutError after `seconds`."""
        self.jobs += 1
        deadline = wire.Deadline(seconds)
        wire.send_job(self._sock, files, wanted, deadline)
        return wire.receive_decoded(self._sock, deadline)

    def close(self) -> None:
        """Let it end when it is done."""
        self._sock.close()
