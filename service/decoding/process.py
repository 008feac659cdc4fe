"""A decoding process, from the side of the service."""

from __future__ import annotations

import socket
from contextlib import suppress

from service.classification.upload_fields import InputFiles
from service.decoding import wire
from service.decoding.job import DecodeRequest, DecodeResult
from service.decoding.proc_status import ProcStatus, Unresponsive
from service.decoding.stderr_tail import StderrTail

#: Longest time in seconds for an idle process to answer a heartbeat, and for any process to receive
#: the files of a job, which are copied from memory to memory.
_HEARTBEAT_S, _SEND_JOB_S = 4.0, 10.0


class Process:
    """A decoding process, idle or at one job.

    `pid`: process id. `job_count`: jobs that it has received. `job_started_at`: time.monotonic()
    at the start of the last one. `stderr_tail`: the last lines that it wrote to stderr.
    """

    def __init__(self, pid: int, sock: socket.socket, stderr_tail: StderrTail) -> None:
        self.pid = pid
        self.job_count = 0
        self.job_started_at = 0.0
        self.stderr_tail = stderr_tail
        self._sock = sock

    @property
    def has_ended(self) -> bool:
        """Whether an idle process has ended, or sent data without a request."""
        try:
            self._sock.setblocking(False)
            self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def heartbeat(self) -> None:
        """Wait for an idle process to answer a heartbeat. Raises PeerLost and Unresponsive."""
        deadline = wire.Deadline(_HEARTBEAT_S, ProcStatus(self.pid).check_awake)
        try:
            wire.send_heartbeat(self._sock, deadline)
            wire.receive_acknowledgement(self._sock, deadline)
        except TimeoutError:
            raise Unresponsive(f"no reply to a heartbeat within {_HEARTBEAT_S:g} s") from None

    def decode(
        self, files: InputFiles, request: DecodeRequest, seconds: float, allocate: wire.Allocate
    ) -> DecodeResult:
        """Send the files and wait for the result, whose tensors are in arrays of `allocate`.

        Raises Problem and RuntimeError as `wire.receive_result` does; PeerLost; Unresponsive where
        the process does not receive the files or is stopped; TimeoutError where it reads them for
        longer than `seconds`.
        """
        self.job_count += 1
        self._send_job(files, request)
        deadline = wire.Deadline(seconds, ProcStatus(self.pid).check_not_stopped)
        return wire.receive_result(self._sock, deadline, allocate)

    def interrupt(self) -> None:
        """Make `decode`, which runs in another thread, raise PeerLost; do not wait for it."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def detach(self) -> int:
        """Return the descriptor of the socket, which is the caller's from now on."""
        return self._sock.detach()

    def close(self) -> None:
        """Close the socket: the process ends after its job."""
        self._sock.close()

    def _send_job(self, files: InputFiles, request: DecodeRequest) -> None:
        deadline = wire.Deadline(_SEND_JOB_S, ProcStatus(self.pid).check_awake)
        try:
            wire.send_request(self._sock, files, request, deadline)
            wire.receive_acknowledgement(self._sock, deadline)
        except TimeoutError:
            raise Unresponsive(f"it did not receive the files within {_SEND_JOB_S:g} s") from None
