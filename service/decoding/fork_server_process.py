"""The process of the fork server, from the side of the service."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from contextlib import ExitStack, suppress

from model.module_command import module_command
from service.decoding import wire
from service.decoding.stderr_tail import StderrTail

_WORKER = "service.decoding.worker"
#: Longest wait for a reply, in seconds: the first one waits for the imports.
_START_S, _REPLY_S = 60.0, 6.0
#: Seconds in which it may end by itself before it is killed.
END_S = 2.0
#: Of the fork server. One thread for each job, except for video, whose threads share the memory of
#: the job. The stack of a process that crashes goes to stderr. By default glibc maps blocks above
#: 128 KiB anew, which costs a clip 140 page faults and a sixth of its CPU time: blocks up to 32 MiB
#: are used again, and a process keeps at most 64 MiB that it does not use.
ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 * 1024 * 1024),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 1024 * 1024),
    "MALLOC_TOP_PAD_": str(4 * 1024 * 1024),
    "PYTHONFAULTHANDLER": "1",
}


class ForkServerProcess:
    """A fork server that has been started, with our end of its control socket and its stderr.

    Raises OSError where it cannot be started.
    """

    def __init__(self, sandbox: str) -> None:
        self.stderr_tail = StderrTail()
        with ExitStack() as stack:
            stack.callback(self.stderr_tail.close_writer)
            self._control, process_end = socket.socketpair()
            stack.enter_context(process_end)
            on_failure = stack.enter_context(ExitStack())
            on_failure.enter_context(self._control)
            self._control.settimeout(_START_S)
            self._popen = _spawn(process_end.fileno(), self.stderr_tail.writer, sandbox)
            on_failure.pop_all()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def request(self, command: bytes, fds: list[int]) -> int:
        """Send a command with file descriptors, and return the reply. Raises OSError."""
        socket.send_fds(self._control, [command], fds)
        reply = self._control.recv(wire.REPLY.size, socket.MSG_WAITALL)
        if len(reply) < wire.REPLY.size:
            raise ConnectionError("it closed the socket")
        self._control.settimeout(_REPLY_S)
        return int(wire.REPLY.unpack(reply)[0])

    def kill_child(self, pid: int) -> None:
        """Order a decoding process to be killed; the fork server sends no reply."""
        with suppress(OSError):
            self._control.sendall(wire.COMMAND.pack(wire.KILL, pid, 0.0))

    def kill(self) -> None:
        """Send SIGKILL; `end` has to be called as well."""
        self._popen.kill()

    def end(self) -> None:
        """Close the control socket and wait until the process has ended.

        All decoding processes end with it.
        """
        self._control.close()
        try:
            self._popen.wait(timeout=END_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()

    def describe_end(self, error: OSError) -> str:
        """Describe how the process ended; `error` is what `request` raised."""
        code = self._popen.returncode
        if isinstance(error, TimeoutError):
            return "it does not respond"
        if code < 0:
            return f"it was ended by signal {-code} ({signal.strsignal(-code)})"
        return f"it ended with exit code {code}"


def _spawn(control: int, stderr: int, sandbox: str) -> subprocess.Popen[bytes]:
    # An attacker who takes the process over must not find the service's keys in its memory.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SCMRL_", "OTEL_"))}
    return subprocess.Popen(
        module_command(_WORKER, control, sandbox),
        pass_fds=[control],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        env=inherited | ENVIRONMENT,
        start_new_session=True,  # Ctrl-C is for the service, which ends this process in order
    )
