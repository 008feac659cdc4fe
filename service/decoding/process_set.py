"""The decoding processes of a pool: idle ones, busy ones, and their replacement."""

from __future__ import annotations

import logging
import time
from collections import deque
from contextlib import suppress

from service.decoding import wire
from service.decoding.availability import Availability
from service.decoding.fork_server import ForkServer
from service.decoding.process import Process
from service.decoding.stderr_tail import quote_lines
from service.errors import Error, Problem

log = logging.getLogger("scmrl.decoding")

#: Jobs after which a process is replaced, so that leaks in libraries do not add up.
_MAX_JOBS = 500


class ProcessSet:
    """At most `size` idle processes, and those that decode.

        fork ──▶ busy ──release──▶ idle ──acquire──▶ busy
        busy or idle ──replace (died, hangs)──▶ ended, counted in `restarts`
        busy ──end (cancelled, or at its last job)──▶ ended

    Thread-safe.
    """

    def __init__(self, size: int, fork_server: ForkServer, availability: Availability) -> None:
        self._size = size
        self._fork_server = fork_server
        self._availability = availability
        self.idle: deque[Process] = deque()
        self.busy: set[Process] = set()
        self.restarts = 0

    def fork(self) -> Process:
        """Start a process. Raises Problem NOT_READY."""
        try:
            process = self._fork_server.fork()
        except RuntimeError as exc:
            raise self.start_failed(exc) from exc
        self._availability.note_start()
        return process

    def fork_live(self, memory_bytes: int) -> Process:
        """Start the decoder of a live stream, which is not of the set. Raises Problem NOT_READY."""
        try:
            return self._fork_server.fork_live(memory_bytes)
        except RuntimeError as exc:
            raise self.start_failed(exc) from exc

    def start_failed(self, error: RuntimeError) -> Problem:
        """Note that no process can be started, and return the problem to answer with."""
        self._availability.note_failed_start(str(error), self._fork_server.failed_starts)
        return Problem(Error.NOT_READY, "No decoding process can be started.", retry_after_s=5)

    def acquire(self) -> Process:
        """Take an idle process, or start one. Raises Problem NOT_READY."""
        with suppress(IndexError):
            while (process := self.idle.pop()).has_ended:
                self.replace(process, "it died while idle")
            return process
        return self.fork()

    def add_idle(self) -> None:
        """Start a process for later, where one can be started."""
        with suppress(Problem):
            self.idle.append(self.fork())

    def begin_job(self, process: Process) -> None:
        """Mark a process as busy."""
        process.job_started_at = time.monotonic()
        self.busy.add(process)

    def release(self, process: Process) -> None:
        """Keep a process for the next job, or end it: at its last job, or where enough are idle."""
        if process.job_count < _MAX_JOBS and len(self.idle) < self._size:
            self.idle.append(process)
        else:
            self.end(process)  # a stopped one would not notice that its socket is closed

    def end(self, process: Process) -> None:
        """End a process, whatever it is doing."""
        self._fork_server.kill(process)

    def replace(self, process: Process, reason: str) -> None:
        """End a process that died or hangs; the next job starts another one."""
        self.restarts += 1
        self.end(process)
        lines = quote_lines(process.stderr_tail.lines())
        log.warning("decoding process %d is replaced: %s%s", process.pid, reason, lines)

    def reap_idle(self) -> int:
        """End idle processes that have died or do not reply to a heartbeat; return how many."""
        reaped = 0
        for _ in range(len(self.idle)):
            with suppress(IndexError):  # a job has acquired one meanwhile
                process = self.idle.popleft()
                try:
                    process.heartbeat()
                except wire.PeerLost as exc:
                    self.replace(process, f"{exc}, idle")
                    reaped += 1
                else:
                    self.release(process)  # a job may have started another one meanwhile
        return reaped

    def all_busy_for(self, seconds: float) -> bool:
        """Whether as many processes as may run have each been at one job for `seconds`."""
        now = time.monotonic()
        job_seconds = [now - process.job_started_at for process in self.busy.copy()]
        return len(job_seconds) >= self._size and min(job_seconds) > seconds
