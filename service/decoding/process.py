"""One decoding process, as the service sees it."""

from __future__ import annotations

import socket
from contextlib import suppress

from service.classification.inputs import InputFiles
from service.decoding import wire
from service.decoding.job import DecodeRequest, DecodeResult
from service.decoding.proc_status import ProcStatus, Unresponsive
from service.decoding.stderr_tail import StderrTail

#: Longest time, in seconds, that an idle process may take for a heartbeat, and any process to
#: take over the files of a job: they are copied from memory to memory.
_HEARTBEAT_S, _HANDOVER_S = 4.0, 10.0


class Process:
    """A decoding process, idle or at its one job; `stderr_tail` is its stderr."""

    def __init__(self, pid: int, sock: socket.socket, stderr_tail: StderrTail) -> None:
        self.pid = pid
        self.jobs = 0
        self.since = 0.0  # time.monotonic() of its last job's begin
        self.stderr_tail = stderr_tail
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

    def heartbeat(self) -> None:
        """Wait for a sign of life of an idle process. Raises Lost, and Unresponsive."""
        deadline = wire.Deadline(_HEARTBEAT_S, ProcStatus(self.pid).check_awake)
        try:
            wire.send_heartbeat(self._sock, deadline)
            wire.receive_acknowledgement(self._sock, deadline)
        except TimeoutError:
            raise Unresponsive(f"it gave no sign of life within {_HEARTBEAT_S:g} s") from None

    def decode(self, files: InputFiles, wanted: DecodeRequest, seconds: float) -> DecodeResult:
        """Hand over the files and wait for what becomes of them.

        Raises Problem and RuntimeError as `wire.receive_result` does, Lost, Unresponsive where
        the process does not begin or is stopped, and TimeoutError where it has the files and
        reads them for longer than `seconds`.
        """
        self.jobs += 1
        self._hand_over(files, wanted)
        deadline = wire.Deadline(seconds, ProcStatus(self.pid).check_not_stopped)
        return wire.receive_result(self._sock, deadline)

    def interrupt(self) -> None:
        """Make `decode`, which another thread is in, raise Lost; returns at once."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let it end when it is done."""
        self._sock.close()

    def _hand_over(self, files: InputFiles, wanted: DecodeRequest) -> None:
        deadline = wire.Deadline(_HANDOVER_S, ProcStatus(self.pid).check_awake)
        try:
            wire.send_request(self._sock, files, wanted, deadline)
            wire.receive_acknowledgement(self._sock, deadline)
        except TimeoutError:
            raise Unresponsive(f"it did not take the files within {_HANDOVER_S:g} s") from None
