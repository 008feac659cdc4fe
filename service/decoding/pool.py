"""The service's side of decoding: as many confined processes as are needed, each expendable."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass

from service.decoding import wire
from service.decoding.files import Decoded, Wanted
from service.decoding.worker import KILL, ORDER, START, STARTED
from service.errors import Error, Problem
from service.form import Media

log = logging.getLogger("scmrl.decoding")

#: Jobs after which a process is replaced, so that what a library leaks does not add up.
_JOBS = 500
#: Seconds between two attempts to start a process where none could be started.
_WATCH_S = 1.0
#: Longest wait for a new process, in seconds: the first waits for the nursery's imports.
_START_S = 60.0


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
        self._sock = sock

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
    """The process that forks the others; started again where it has died."""

    def __init__(self, limits: DecodeLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._popen: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def start(self) -> None:
        """Start it, without waiting for it to be ready."""
        with self._lock:
            self._ensure()

    def fork(self) -> _Process:
        """A new decoding process. Raises RuntimeError where there is none to be had."""
        with self._lock:
            for _ in range(2):
                with suppress(OSError):
                    return self._fork(self._ensure())
                self._end()
        raise RuntimeError("no decoding process could be started")

    def kill(self, process: _Process) -> None:
        """End a process at once, whatever it is doing."""
        with self._lock, suppress(OSError):
            if self._control is not None:
                self._control.sendall(ORDER.pack(KILL, process.pid, 0.0))
        process.close()

    def stop(self) -> None:
        """End it, and all that it forked."""
        with self._lock:
            self._end()

    def _ensure(self) -> socket.socket:
        if self._popen is not None and self._popen.poll() is None and self._control is not None:
            return self._control
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
                env=environment | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for the service, which ends it in order
            )
        ours.settimeout(_START_S)
        self._control = ours
        return ours

    def _fork(self, control: socket.socket) -> _Process:
        """Raises OSError."""
        ours, theirs = socket.socketpair()
        limits = self._limits
        with theirs:
            order = ORDER.pack(START, limits.memory_bytes, 2 * limits.seconds)
            socket.send_fds(control, [order], [theirs.fileno()])
        answer = control.recv(STARTED.size, socket.MSG_WAITALL)
        if len(answer) < STARTED.size:
            ours.close()
            raise ConnectionError("the nursery has gone")
        return _Process(STARTED.unpack(answer)[0], ours)

    def _end(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._popen is not None:
            try:
                self._popen.wait(timeout=2)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()
            self._popen = None


class Decoders:
    """At most `workers` decoding processes at a time; more jobs wait in order.

    A process that dies, hangs or eats memory costs the files it was reading, and is replaced.
    """

    def __init__(self, workers: int, limits: DecodeLimits) -> None:
        self._limits = limits
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="scmrl-decode")
        self._nursery = _Nursery(limits)
        self._idle: deque[_Process] = deque()
        self._stopping = threading.Event()
        self.restarts = 0  # processes that were lost
        self.trouble: str | None = None  # why no process can be started

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

    def watch(self) -> None:
        """Where no process can be started, try again until the service stops; a thread's work."""
        while not self._stopping.wait(_WATCH_S):
            if self.trouble is not None:
                self._start_one()

    def stop(self) -> None:
        """End all processes; what waits for one is never run."""
        self._stopping.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._nursery.stop()

    def _start_one(self) -> None:
        with suppress(Problem):
            self._idle.append(self._fork())

    def _fork(self) -> _Process:
        """Raises Problem NOT_READY."""
        try:
            process = self._nursery.fork()
        except RuntimeError as exc:
            if self.trouble is None:
                log.error("%s", exc)
            self.trouble = "No decoding process can be started."
            raise Problem(Error.NOT_READY, self.trouble, retry_after_s=5) from exc
        self.trouble = None
        return process

    def _decode(self, files: Media, wanted: Wanted) -> Decoded:
        for _ in range(2):  # a process may have died of something else than these files
            process = self._take()
            try:
                decoded = process.decode(files, wanted, self._limits.seconds)
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
        detail = "The file is damaged: reading it made the decoder fail."
        raise Problem(Error.UNUSABLE, detail, field=_field(files))

    def _take(self) -> _Process:
        try:
            return self._idle.pop()
        except IndexError:
            return self._fork()

    def _give(self, process: _Process) -> None:
        if process.jobs < _JOBS:
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
