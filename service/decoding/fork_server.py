"""The service's side of the process that forks decoding processes."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Literal

from service.decoding import wire
from service.decoding.process import Process
from service.decoding.sandbox import Layers
from service.decoding.stderr_tail import StderrTail, quoted

log = logging.getLogger("scmrl.decoding")

_WORKER = "service.decoding.worker"
#: Longest wait for its answers, in seconds: the first waits for its imports.
_START_S, _ANSWER_S = 60.0, 6.0
#: How long it has to end in order, in seconds.
_END_S = 2.0
#: Wait before it is started again after a start that failed, in seconds: doubled each time, up to
#: the longest.
_RETRY_S, _RETRY_MOST_S = 1.0, 30.0
#: One thread for each job, but for video's, which share what memory the job may have. The stack
#: of a process that crashes goes to stderr.
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "PYTHONFAULTHANDLER": "1",
}


@dataclass(frozen=True)
class DecodeLimits:
    """What a request's files may cost: seconds to read them, and memory in bytes; and whether
    they may be read where seccomp does not hold the process."""

    seconds: float
    memory_bytes: int
    sandbox: Literal["auto", "required"] = "auto"


@dataclass(frozen=True)
class Failing:
    """Starts that failed, one after the other: how many, since when (time.monotonic()), and why
    the last one did."""

    starts: int
    since: float
    reason: str


class _Running:
    """The process that there is, with our end of its socket and its stderr. Raises OSError."""

    def __init__(self, sandbox: str) -> None:
        self.answered = False
        self.stderr_tail = StderrTail()
        with ExitStack() as here:
            here.callback(self.stderr_tail.close_writer)
            self.control, theirs = socket.socketpair()
            here.enter_context(theirs)
            unused = here.enter_context(ExitStack())
            unused.enter_context(self.control)
            self.control.settimeout(_START_S)
            self.popen = _started(theirs.fileno(), self.stderr_tail.writer, sandbox)
            unused.pop_all()

    def ask(self, order: bytes, fds: list[int]) -> int:
        """What it answers to an order. Raises OSError."""
        socket.send_fds(self.control, [order], fds)
        answer = self.control.recv(wire.REPLY.size, socket.MSG_WAITALL)
        if len(answer) < wire.REPLY.size:
            raise ConnectionError("it has gone")
        self.answered = True
        self.control.settimeout(_ANSWER_S)
        return int(wire.REPLY.unpack(answer)[0])

    def end(self) -> None:
        """Let it end, and all that it forked, and wait for that."""
        self.control.close()
        try:
            self.popen.wait(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


def _started(control: int, stderr: int, sandbox: str) -> subprocess.Popen[bytes]:
    # Whoever takes it over must not find the service's keys in its memory.
    own = {k: v for k, v in os.environ.items() if not k.startswith(("SCMRL_", "OTEL_"))}
    return subprocess.Popen(
        [sys.executable, "-m", _WORKER, str(control), sandbox],
        pass_fds=[control],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        env=own | _ENVIRONMENT,
        start_new_session=True,  # Ctrl-C is for the service, which ends it in order
    )


class ForkServer:
    """The process that forks the others; started anew where it has died or does not answer.

    A process that has answered is replaced at once. Where the one in its place fails as well, the
    next is started a while later.
    """

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._asked_at: float | None = None  # time.monotonic() of an order that has no answer yet
        self._retry_at = 0.0
        self._stopped = False
        self._logged: tuple[str, list[str]] | None = None  # the last failure that is in the log
        self.restarts = 0
        self.lost = False  # and none has answered since
        self.failing: Failing | None = None
        self.layers: Layers | None = None  # of the processes that it forks

    @property
    def pid(self) -> int | None:
        """The process that there is."""
        running = self._running
        return None if running is None else running.popen.pid

    @property
    def silent_s(self) -> float:
        """How long an answer of it has been waited for."""
        asked_at = self._asked_at
        return 0.0 if asked_at is None else time.monotonic() - asked_at

    def fork(self) -> Process:
        """A new decoding process. Raises RuntimeError where there is none to be had."""
        limits = self._limits
        if self.layers is None:
            self.heartbeat()
        with ExitStack() as here:
            try:
                ours, theirs = socket.socketpair()
                here.enter_context(theirs)
                unused = here.enter_context(ExitStack())
                unused.enter_context(ours)
                stderr_tail = StderrTail()
            except OSError as exc:
                raise RuntimeError(f"no decoding process can be started: {exc}") from exc
            here.callback(stderr_tail.close_writer)
            fds = [theirs.fileno(), stderr_tail.writer]
            pid = self._ask(wire.START, limits.memory_bytes, 2 * limits.seconds, fds)
            unused.pop_all()
        self.failing = self._logged = None
        return Process(pid, ours, stderr_tail)

    def heartbeat(self) -> None:
        """Let it show that it lives. Raises RuntimeError where none can be started."""
        layers = Layers(self._ask(wire.HEARTBEAT, 0, 0.0, []))
        if layers != self.layers:
            self.layers = layers
            level = logging.INFO if Layers.SECCOMP in layers else logging.WARNING
            log.log(level, "decoding processes are confined by %s", ", ".join(layers.names))

    def kill(self, process: Process) -> None:
        """End a process at once, whatever it is doing."""
        with self._lock, suppress(OSError):
            if self._running is not None:
                self._running.control.sendall(wire.COMMAND.pack(wire.KILL, process.pid, 0.0))
        process.close()

    def stop(self) -> None:
        """End it, and all that it forked."""
        self._stopped = True
        while not self._lock.acquire(timeout=_END_S):
            if (running := self._running) is not None:
                running.popen.kill()  # who has the lock waits for an answer of it
        try:
            if self._running is not None:
                self._running.end()
                self._running = None
        finally:
            self._lock.release()

    def _ask(self, kind: bytes, number: int, seconds: float, fds: list[int]) -> int:
        """What it answers to an order; of one that was lost, another in its place.

        Raises RuntimeError where that one fails as well, and until the next may be started.
        """
        order = wire.COMMAND.pack(kind, number, seconds)
        with self._lock:
            while True:
                had_answered = self._running is not None and self._running.answered
                try:
                    return self._answer(order, fds)
                except OSError as exc:
                    self._lose(exc)
                    if not had_answered:
                        raise RuntimeError(self._why()) from exc

    def _answer(self, order: bytes, fds: list[int]) -> int:
        """Raises OSError."""
        if self._running is None:
            if self._stopped:
                raise OSError("the service is being stopped")
            if time.monotonic() < self._retry_at:
                raise OSError("its last start failed a moment ago")
            self._running = _Running(self._limits.sandbox)
        self._asked_at = time.monotonic()
        try:
            answer = self._running.ask(order, fds)
        finally:
            self._asked_at = None
        self.lost = False
        return answer

    def _why(self) -> str:
        reason = self.failing.reason if self.failing else "the service is being stopped"
        return f"no decoding process can be started: {reason}"

    def _lose(self, why: OSError) -> None:
        """Give up the one there is, and all that it forked: they end with it."""
        running, self._running = self._running, None
        if running is not None and isinstance(why, TimeoutError):
            running.popen.kill()
        if running is not None:
            running.end()
        if self._stopped or (running is None and time.monotonic() < self._retry_at):
            return
        self.lost = True
        self.restarts += running is not None
        lines = running.stderr_tail.lines() if running is not None else []
        reason = str(why) if running is None else _end_of(running.popen.returncode, why)
        self._log(running, reason, lines)
        if running is not None and running.answered:
            return  # another is started at once
        failing = self.failing or Failing(0, time.monotonic(), "")
        reason = f"{reason}: {lines[-1]}" if lines else reason
        self.failing = Failing(failing.starts + 1, failing.since, reason)
        self._retry_at = time.monotonic() + min(_RETRY_MOST_S, _RETRY_S * 2**failing.starts)

    def _log(self, running: _Running | None, reason: str, lines: list[str]) -> None:
        """Say it, unless the last failure that was said is the same."""
        if (reason, lines) == self._logged:
            return
        self._logged = (reason, lines)
        which = f"process {running.popen.pid}" if running is not None else "the process"
        log.error("%s, which starts decoding, is replaced: %s%s", which, reason, quoted(lines))


def _end_of(returncode: int, why: OSError) -> str:
    """How a process ended, in words."""
    if isinstance(why, TimeoutError):
        return "it does not answer"
    if returncode < 0:
        return f"it was ended by signal {-returncode} ({signal.strsignal(-returncode)})"
    return f"it ended with exit code {returncode}"
