"""The process of one device, from the side of the process that has the queues."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from model.module_command import module_command
from model.thread_name import show_thread_name
from service.device_link.connection import Connection, DeviceLost

if TYPE_CHECKING:
    from model.engine.memory import Memory

log = logging.getLogger("scmrl.devices")

_MODULE = "service.processes.device_process"
#: Longest wait for the end of a process that was killed, in seconds.
_KILLED_S = 2.0
#: Seconds within which a process ends after its sockets have been closed; then it is killed.
_DYING_S = 1.0


@dataclass(frozen=True)
class ProcessOptions:
    """Options of the processes of devices. `threads`: of a network on a CPU."""

    threads: int
    log_level: str
    log_format: str


class DeviceProcess:
    """A process that has been started; it is not started again. Raises DeviceLost if it cannot be.

    A thread starts it and waits for its end, since the system ends it with the thread that started
    it. `is_usable`: whether networks can be loaded in it. `memory`: that of its device, as last
    reported; None before.
    """

    def __init__(self, device: str, options: ProcessOptions) -> None:
        self.device = device
        self._control, process_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._popen: subprocess.Popen[bytes] | None = None
        self._error: OSError | None = None
        self._started, self._ended = threading.Event(), threading.Event()
        self._is_ending = False
        self.memory: Memory | None = None
        threading.Thread(
            target=self._start_and_wait,
            args=(process_end, options),
            name="scmrl-device",
            daemon=True,
        ).start()
        self._started.wait()
        if self._error is not None:
            self._control.close()
            raise DeviceLost(f"the process of {device} cannot be started: {self._error}")

    @property
    def pid(self) -> int:
        assert self._popen is not None
        return self._popen.pid

    @property
    def is_usable(self) -> bool:
        return not self._is_ending and not self._ended.is_set()

    def connect(self) -> Connection:
        """Return a new connection. Raises DeviceLost."""
        with ExitStack() as stack:
            try:
                calls, process_calls = socket.socketpair()
                on_failure = stack.enter_context(ExitStack())
                on_failure.enter_context(calls)
                stack.enter_context(process_calls)
                blocks, process_blocks = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                on_failure.enter_context(blocks)
                stack.enter_context(process_blocks)
                fds = [process_calls.fileno(), process_blocks.fileno()]
                socket.send_fds(self._control, [b"+"], fds)
            except OSError as exc:
                raise DeviceLost(f"no connection to the process of {self.device}: {exc}") from exc
            on_failure.pop_all()
        return Connection(calls, blocks)

    def kill(self, reason: str) -> None:
        """End it at once; all calls in it raise DeviceLost."""
        if self.is_usable:
            log.error("the process of %s (%d) is killed: %s", self.device, self.pid, reason)
        self._end()

    def give_up(self, reason: str) -> None:
        """Wait for the end of a process that has failed; kill it after `_DYING_S` seconds."""
        if not self._ended.wait(_DYING_S):
            self.kill(reason)

    def begin_stop(self) -> None:
        """Close its control socket: the process then ends by itself."""
        self._is_ending = True
        self._control.close()

    def stop(self, until: float) -> None:
        """End it, and kill it if it has not ended by itself when time.monotonic() is `until`."""
        self.begin_stop()
        if not self._ended.wait(max(0.0, until - time.monotonic())):
            self._end()
            self._ended.wait(_KILLED_S)

    def _end(self) -> None:
        assert self._popen is not None
        self._is_ending = True
        self._popen.kill()

    def _start_and_wait(self, process_end: socket.socket, options: ProcessOptions) -> None:
        show_thread_name()
        with process_end:
            try:
                self._popen = _spawn(process_end, self.device, options)
            except OSError as exc:
                self._error = exc
                return
            finally:
                self._started.set()
        log.info("process %d runs the networks on %s", self.pid, self.device)
        code = self._popen.wait()
        self._ended.set()
        self._control.close()
        if not self._is_ending:
            log.error("the process of %s (%d) %s", self.device, self.pid, _describe_end(code))


def _spawn(control: socket.socket, device: str, options: ProcessOptions) -> subprocess.Popen[bytes]:
    """Start a process, without the variables of settings and of traces, which may have secrets."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SCMRL_", "OTEL_"))}
    arguments = (control.fileno(), device, options.threads, options.log_level, options.log_format)
    return subprocess.Popen(
        module_command(_MODULE, *arguments),
        pass_fds=[control.fileno()],
        stdin=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,  # Ctrl-C is for the service, which ends this process in order
    )


def _describe_end(code: int) -> str:
    if code < 0:
        return f"was ended by signal {-code} ({signal.strsignal(-code)})"
    return f"ended with exit code {code}"
