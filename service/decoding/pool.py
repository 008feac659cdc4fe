"""The service's side of decoding: as many confined processes as are needed, each expendable."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, replace

from service.decoding import wire
from service.decoding.job import Decoded, Wanted
from service.errors import Error, Problem
from service.form import Media

log = logging.getLogger("scmrl.decoding")

#: Jobs after which a process is replaced, so that what a library leaks does not add up.
_JOBS = 500
#: Seconds between two looks at whether the processes live.
_WATCH_S = 1.0
#: Longest wait for the nursery's answers, in seconds: the first waits for its imports.
_START_S, _ANSWER_S = 60.0, 6.0
#: How long it has to end in order, in seconds.
_END_S = 2.0
#: One thread for each job, but for video's, which share what memory the job may have.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
_DIED_IDLE = "it died while it had nothing to do"


@dataclass(frozen=True)
class DecodeLimits:
    """What a request's files may cost: seconds to read them, and memory in bytes."""

    seconds: float
    memory_bytes: int


class _Process:
    """One decoding process, idle or at its one job."""

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self.pid = pid
        self.jobs = 0
        self.since = 0.0  # time.monotonic() of its last job's begin
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


class _Nursery:
    """The process that forks the others; started anew where it has died or does not answer."""

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._popen: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._asked_at: float | None = None  # time.monotonic() of an order that has no answer yet
        self._stopped = False
        self.restarts = 0
        self.lost = False  # and none has answered since

    @property
    def silent_s(self) -> float:
        """How long an answer of it has been waited for."""
        asked_at = self._asked_at
        return 0.0 if asked_at is None else time.monotonic() - asked_at

    def fork(self) -> _Process:
        """A new decoding process. Raises RuntimeError where there is none to be had."""
        limits = self._limits
        try:
            ours, theirs = socket.socketpair()
        except OSError as exc:
            raise RuntimeError(f"no decoding process could be started: {exc}") from exc
        with theirs:
            try:
                pid = self._ask(
                    wire.START, limits.memory_bytes, 2 * limits.seconds, [theirs.fileno()]
                )
            except RuntimeError:
                ours.close()
                raise
        return _Process(pid, ours)

    def beat(self) -> None:
        """Let it show that it lives. Raises RuntimeError where none can be started."""
        self._ask(wire.BEAT, 0, 0.0, [])

    def kill(self, process: _Process) -> None:
        """End a process at once, whatever it is doing."""
        with self._lock, suppress(OSError):
            if self._control is not None:
                self._control.sendall(wire.ORDER.pack(wire.KILL, process.pid, 0.0))
        process.close()

    def stop(self) -> None:
        """End it, and all that it forked."""
        self._stopped = True
        while not self._lock.acquire(timeout=_END_S):
            if (popen := self._popen) is not None:
                popen.kill()  # who has the lock waits for an answer of it
        try:
            self._end()
        finally:
            self._lock.release()

    def _ask(self, kind: bytes, number: int, seconds: float, fds: list[int]) -> int:
        """What it answers to an order, started anew once where it gives no answer.

        Raises RuntimeError.
        """
        with self._lock:
            for _ in range(2):
                try:
                    answer = self._answer(wire.ORDER.pack(kind, number, seconds), fds)
                except OSError as exc:
                    why = exc
                    self._lose(exc)
                else:
                    self.lost = False
                    return answer
        raise RuntimeError(f"no decoding process could be started: {why}")

    def _answer(self, order: bytes, fds: list[int]) -> int:
        """Raises OSError."""
        control = self._ensure()
        self._asked_at = time.monotonic()
        try:
            socket.send_fds(control, [order], fds)
            answer = control.recv(wire.ANSWER.size, socket.MSG_WAITALL)
        finally:
            self._asked_at = None
        if len(answer) < wire.ANSWER.size:
            raise ConnectionError("it has gone")
        control.settimeout(_ANSWER_S)
        return int(wire.ANSWER.unpack(answer)[0])

    def _ensure(self) -> socket.socket:
        """Start it where it is not there, without waiting until it is ready. Raises OSError."""
        if self._control is not None:
            return self._control
        if self._stopped:
            raise OSError("the service is being stopped")
        ours, theirs = socket.socketpair()
        # Whoever takes it over must not find the service's keys in its memory.
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SCMRL_", "OTEL_"))}
        # Its libraries' own messages are about strangers' files, and of no use to an operator.
        quiet = None if log.isEnabledFor(logging.DEBUG) else subprocess.DEVNULL
        with theirs:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "service.decoding.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=quiet,
                env=environment | _ENVIRONMENT,
                start_new_session=True,  # Ctrl-C is for the service, which ends it in order
            )
        ours.settimeout(_START_S)
        self._control = ours
        return ours

    def _lose(self, why: OSError) -> None:
        """Give up the one there is, and all that it forked: they end with it."""
        if self._popen is not None and not self._stopped:
            self.lost = True
            self.restarts += 1
            how = "it does not answer" if isinstance(why, TimeoutError) else "it has died"
            log.error("process %d, which starts decoding, is replaced: %s", self._popen.pid, how)
            self._popen.kill()
        self._end()

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._popen is not None:
            try:
                self._popen.wait(timeout=_END_S)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()
            self._popen = None


class Decoders:
    """At most `workers` decoding processes at a time; more jobs wait in order. A process that has
    no other beside it may use as many threads.

    A process that dies, hangs or eats memory costs the files it was reading, and is replaced.
    """

    def __init__(self, workers: int, limits: DecodeLimits) -> None:
        self._limits = limits
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="scmrl-decode")
        self._nursery = _Nursery(limits)
        self._idle: deque[_Process] = deque()
        self._reading: set[_Process] = set()
        self._stopping = threading.Event()
        self._cannot_start = False
        self.restarts = 0  # processes that were lost

    def start(self) -> None:
        """Begin to start, in the background; not needed, but the first file then waits less."""
        self._threads.submit(self._start_one)

    async def decode(self, files: Media, wanted: Wanted) -> Decoded:
        """Decode and preprocess. Cancelled while it waits for a process, it is never run.

        Raises Problem: as `files.decode` does, and DECODE_TIMEOUT, and UNUSABLE where a process
        died of the files.
        """
        loop = asyncio.get_running_loop()
        context = copy_context()  # the executor's threads know nothing of the request
        return await loop.run_in_executor(self._threads, context.run, self._decode, files, wanted)

    def trouble(self, stalled_after_s: float) -> str | None:
        """Why nothing can be read now: no process can be started, or none of them has got any
        further for `stalled_after_s`. None where files are read."""
        if self._cannot_start:
            return "No decoding process can be started."
        if self._nursery.lost or self._nursery.silent_s > stalled_after_s:
            return "The decoding processes are being started."
        reading = [time.monotonic() - process.since for process in self._reading.copy()]
        if len(reading) >= self._workers and min(reading) > stalled_after_s:
            return f"Every decoding process is at one file for more than {stalled_after_s:g} s."
        return None

    @property
    def nursery_restarts(self) -> int:
        """How often the process that starts the others was lost."""
        return self._nursery.restarts

    def watch(self) -> None:
        """Replace what has died or does not answer, until the service stops; a thread's work."""
        while not self._stopping.wait(_WATCH_S):
            with suppress(Problem):
                self._look_at_nursery()
                if self._bury() or self._cannot_start:
                    self._start_one()

    def stop(self) -> None:
        """End all processes; what waits for one is never run."""
        self._stopping.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._nursery.stop()

    def _start_one(self) -> None:
        with suppress(Problem):
            self._idle.append(self._fork())

    def _look_at_nursery(self) -> None:
        """Raises Problem NOT_READY."""
        try:
            self._nursery.beat()
        except RuntimeError as exc:
            raise self._none(exc) from exc

    def _bury(self) -> int:
        """Let go of processes that died while they had nothing to do; how many."""
        buried = 0
        for _ in range(len(self._idle)):
            with suppress(IndexError):  # one is taken meanwhile
                process = self._idle.popleft()
                if process.gone:
                    self._lose(process, _DIED_IDLE)
                    buried += 1
                else:
                    self._idle.append(process)
        return buried

    def _fork(self) -> _Process:
        """Raises Problem NOT_READY."""
        try:
            process = self._nursery.fork()
        except RuntimeError as exc:
            raise self._none(exc) from exc
        self._cannot_start = False
        return process

    def _none(self, why: RuntimeError) -> Problem:
        """What is told where there is no process."""
        if not self._cannot_start and not self._stopping.is_set():
            log.error("%s", why)
        self._cannot_start = True
        return Problem(Error.NOT_READY, "No decoding process can be started.", retry_after_s=5)

    def _decode(self, files: Media, wanted: Wanted) -> Decoded:
        for attempt in range(2):  # a process may have died of something else than these files
            # Not another idle one, which may be as dead: all are where the nursery was killed.
            process = self._fork() if attempt else self._take()
            process.since = time.monotonic()
            self._reading.add(process)
            try:
                decoded = process.decode(files, self._shared(wanted), self._limits.seconds)
            except Problem:
                self._give(process)
                raise
            except TimeoutError:
                self._lose(process, f"took longer than {self._limits.seconds:g} s")
                detail = f"Reading the file took longer than {self._limits.seconds:g} s."
                raise Problem(Error.DECODE_TIMEOUT, detail, field=_field(files)) from None
            except wire.Lost as exc:
                self._lose(process, str(exc))
            except BaseException:
                self._nursery.kill(process)
                raise
            else:
                self._give(process)
                return decoded
            finally:
                self._reading.discard(process)
        detail = "The file is damaged: reading it made the decoder fail."
        raise Problem(Error.UNUSABLE, detail, field=_field(files))

    def _shared(self, wanted: Wanted) -> Wanted:
        """The same, by as many threads as leave none of the other processes without one."""
        threads = max(1, self._workers // len(self._reading))
        limits = replace(wanted.limits, threads=threads)
        return wanted.model_copy(update={"limits": limits})

    def _take(self) -> _Process:
        """One that has nothing to do, or a new one. Raises Problem NOT_READY."""
        with suppress(IndexError):
            while (process := self._idle.pop()).gone:
                self._lose(process, _DIED_IDLE)
            return process
        return self._fork()

    def _give(self, process: _Process) -> None:
        if process.jobs < _JOBS and len(self._idle) < self._workers:
            self._idle.append(process)
        else:
            process.close()

    def _lose(self, process: _Process, why: str) -> None:
        self.restarts += 1
        log.warning("decoding process %d is replaced: %s", process.pid, why)
        self._nursery.kill(process)


def _field(files: Media) -> str:
    """The field to blame where it is not known which file did it."""
    given = {"clip": files.clip, "video": files.video, "frames": files.frames, "audio": files.audio}
    return next(name for name, data in given.items() if data)
