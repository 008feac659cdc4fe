"""The fork server: the process that forks decoding processes, and its supervision."""

from __future__ import annotations

import logging
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from service.decoding import wire
from service.decoding.fork_server_process import END_S, ForkServerProcess
from service.decoding.process import Process
from service.decoding.sandbox import Layers
from service.decoding.stderr_tail import StderrTail, quote_lines
from service.runtime.backoff import backoff_s

log = logging.getLogger("scmrl.decoding")

#: Wait after a failed start, in seconds: doubled each time, up to the longest.
_RETRY_S, _MAX_RETRY_S = 1.0, 30.0


@dataclass(frozen=True)
class DecodeLimits:
    """Limits of one decoding process.

    `seconds` to read the files of a request, `memory_bytes` for them, and whether a `sandbox` by
    seccomp is required.
    """

    seconds: float
    memory_bytes: int
    sandbox: Literal["auto", "required"] = "auto"


@dataclass(frozen=True)
class FailedStarts:
    """Consecutive starts that failed: how many, since when (time.monotonic()), and why the last
    one did."""

    count: int
    since: float
    reason: str


class State(Enum):
    """States of a fork server. `ForkServer` documents the transitions."""

    ABSENT = "not started yet"
    STARTING = "started, has not replied yet"
    RUNNING = "has replied"
    LOST = "a running one died or hung; the next request starts another at once"
    BACKOFF = "a start failed; the next one has to wait"
    STOPPED = "ended with the service"


class ForkServer:
    """Supervises the process that forks decoding processes.

    State transitions; a request (`fork`, `heartbeat`) drives all of them except the last:

        ABSENT, LOST, BACKOFF ──start──▶ STARTING ──reply──▶ RUNNING
        RUNNING  ──death or no reply──▶ LOST
        STARTING ──death or no reply──▶ BACKOFF
        any state ──stop──▶ STOPPED

    Thread-safe. One request is in flight at a time; others wait for it.
    """

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._process: ForkServerProcess | None = None
        self._state = State.ABSENT
        self._stopping = False
        self._request_sent_at: float | None = None  # time.monotonic(); None: none is in flight
        self._retry_at = 0.0  # time.monotonic()
        self._last_logged: tuple[str, list[str]] | None = None
        self.restarts = 0
        #: Failed starts since the last decoding process was forked.
        self.failed_starts: FailedStarts | None = None
        #: Sandbox layers of the decoding processes; None before the first reply.
        self.sandbox_layers: Layers | None = None

    @property
    def pid(self) -> int | None:
        process = self._process
        return None if process is None else process.pid

    @property
    def is_being_replaced(self) -> bool:
        """Whether a process was lost, or a start failed, and no other has replied yet."""
        return self._state in (State.LOST, State.BACKOFF, State.STARTING)

    @property
    def silent_s(self) -> float:
        """Seconds since the request in flight was sent; 0 where there is none."""
        sent_at = self._request_sent_at
        return 0.0 if sent_at is None else time.monotonic() - sent_at

    def fork(self) -> Process:
        """Fork a decoding process. Raises RuntimeError where none can be started."""
        return self._fork(wire.START, self._limits.memory_bytes)

    def fork_live(self, memory_bytes: int) -> Process:
        """Fork the decoder of a live stream, which may allocate `memory_bytes`. Raises
        RuntimeError where none can be started."""
        return self._fork(wire.START_LIVE, memory_bytes)

    def heartbeat(self) -> None:
        """Check that the fork server responds. Raises RuntimeError where none can be started."""
        layers = Layers(self._request(wire.HEARTBEAT, 0, 0.0, []))
        if layers != self.sandbox_layers:
            self.sandbox_layers = layers
            level = logging.INFO if Layers.SECCOMP in layers else logging.WARNING
            log.log(level, "decoding processes are confined by %s", ", ".join(layers.names))

    def kill(self, process: Process) -> None:
        """End a decoding process at once, whatever it is doing."""
        with self._lock:
            if self._process is not None:
                self._process.kill_child(process.pid)
        process.close()

    def stop(self) -> None:
        """End the fork server and all decoding processes."""
        self._stopping = True
        while not self._lock.acquire(timeout=END_S):
            if (process := self._process) is not None:
                process.kill()  # the thread that has the lock waits for its reply
        try:
            if self._process is not None:
                self._process.end()
            self._process = None
            self._state = State.STOPPED
        finally:
            self._lock.release()

    def _fork(self, kind: bytes, memory_bytes: int) -> Process:
        if self.sandbox_layers is None:
            self.heartbeat()
        with ExitStack() as stack:
            try:
                service_end, process_end = socket.socketpair()
                stack.enter_context(process_end)
                on_failure = stack.enter_context(ExitStack())
                on_failure.enter_context(service_end)
                stderr_tail = StderrTail()
            except OSError as exc:
                raise RuntimeError(f"no decoding process can be started: {exc}") from exc
            stack.callback(stderr_tail.close_writer)
            fds = [process_end.fileno(), stderr_tail.writer]
            pid = self._request(kind, memory_bytes, 2 * self._limits.seconds, fds)
            on_failure.pop_all()
        self.failed_starts = self._last_logged = None
        return Process(pid, service_end, stderr_tail)

    def _request(self, kind: bytes, number: int, seconds: float, fds: list[int]) -> int:
        """Send a command and return the reply; replace a running process that does not answer.

        Raises RuntimeError where no process answers that was started for this command, or none may
        be started yet.
        """
        command = wire.COMMAND.pack(kind, number, seconds)
        with self._lock:
            if self._state is State.RUNNING:
                try:
                    return self._exchange(command, fds)
                except OSError as exc:
                    self._handle_loss(exc)
            try:
                self._start()
                return self._exchange(command, fds)
            except OSError as exc:
                self._handle_failed_start(exc)
                raise self._unavailable() from exc

    def _start(self) -> None:
        """ABSENT, LOST or BACKOFF → STARTING. Raises RuntimeError where none may be started yet,
        and OSError."""
        if self._stopping:
            raise self._unavailable()
        if self._state is State.BACKOFF and time.monotonic() < self._retry_at:
            raise self._unavailable()
        self._process = ForkServerProcess(self._limits.sandbox)
        self._state = State.STARTING

    def _exchange(self, command: bytes, fds: list[int]) -> int:
        """Return the reply to a command: STARTING or RUNNING → RUNNING. Raises OSError."""
        assert self._process is not None
        self._request_sent_at = time.monotonic()
        try:
            reply = self._process.request(command, fds)
        finally:
            self._request_sent_at = None
        self._state = State.RUNNING
        return reply

    def _handle_loss(self, error: OSError) -> None:
        """RUNNING → LOST."""
        self._state = State.LOST
        self._end_process(error)

    def _handle_failed_start(self, error: OSError) -> None:
        """STARTING, or a state before it → BACKOFF."""
        self._state = State.BACKOFF
        reason = self._end_process(error)
        if self._stopping:
            return
        failed = self.failed_starts or FailedStarts(0, time.monotonic(), "")
        count = failed.count + 1
        self.failed_starts = FailedStarts(count, failed.since, reason)
        self._retry_at = time.monotonic() + backoff_s(count, _RETRY_S, _MAX_RETRY_S)

    def _end_process(self, error: OSError) -> str:
        """End the process with its children, log why it was lost, and return the reason."""
        process, self._process = self._process, None
        if process is not None:
            if isinstance(error, TimeoutError):
                process.kill()
            process.end()
        if self._stopping:
            return str(error)
        if process is None:
            self._log("the fork server cannot be started", str(error), [])
            return str(error)
        self.restarts += 1
        lines = process.stderr_tail.lines()
        reason = process.describe_end(error)
        self._log(f"the fork server (process {process.pid}) is replaced", reason, lines)
        return f"{reason}: {lines[-1]}" if lines else reason

    def _log(self, event: str, reason: str, lines: list[str]) -> None:
        """Log an error, except where the last one had the same reason and lines of stderr."""
        if (reason, lines) != self._last_logged:
            self._last_logged = (reason, lines)
            log.error("%s: %s%s", event, reason, quote_lines(lines))

    def _unavailable(self) -> RuntimeError:
        failed = self.failed_starts
        reason = "the service is shutting down" if failed is None else failed.reason
        return RuntimeError(f"no decoding process can be started: {reason}")
