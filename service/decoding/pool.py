"""The service's side of decoding: as many confined processes as are needed, each expendable."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace

from service.classification.inputs import InputFiles
from service.decoding import self_test, wire
from service.decoding.client_read import CancellableRead, ReadCancelled
from service.decoding.fork_server import DecodeLimits, ForkServer
from service.decoding.job import DecodeRequest, DecodeResult
from service.decoding.proc_status import Unresponsive
from service.decoding.process import Process
from service.decoding.sandbox import Layers
from service.decoding.stderr_tail import quoted
from service.errors import Error, Problem

log = logging.getLogger("scmrl.decoding")

#: Jobs after which a process is replaced, so that what a library leaks does not add up.
_JOBS = 500
#: Seconds between two looks at whether the processes live.
_WATCH_S = 1.0
#: Starts that may fail, one after the other, and how long they may in a service that has read
#: files before, in seconds.
_STARTS, _HOPELESS_S = 3, 120.0
#: Longest time, in seconds, for the small clip that is read at the start: a machine may be busy
#: then, and `decode_timeout_s` may be set for faster files.
_TRIAL_S = 30.0
_DIED_IDLE = "it died while it had nothing to do"


class DecodingUnavailable(Exception):
    """No file can be read, now or later; the message says why, for the operator."""


class DecoderPool:
    """At most `workers` decoding processes at a time; more jobs wait in order. A process that has
    no other beside it may use as many threads.

    A process that dies, hangs or eats memory costs the files it was reading, and is replaced. One
    that is stopped costs no files: they are read by another. One whose request is cancelled is
    ended.
    `on_fatal` is told once where none can be started: none of the first three, or in a service
    that has read files none for two minutes.
    """

    def __init__(
        self,
        workers: int,
        limits: DecodeLimits,
        on_fatal: Callable[[DecodingUnavailable], None] = lambda error: None,
    ) -> None:
        self._limits = limits
        self._on_fatal = on_fatal
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="scmrl-decode")
        self._fork_server = ForkServer(limits)
        self._idle: deque[Process] = deque()
        self._reading: set[Process] = set()
        self._stopping = threading.Event()
        self._begun = threading.Event()  # the first process is there, or there will be none
        self._proven = False  # a process has read a file, or refused it
        self._cannot_start = False
        self._hopeless = False
        self.restarts = 0  # processes that were lost

    def start(self) -> None:
        """Begin to start, in the background; not needed, but the first file then waits less."""
        self._threads.submit(self._start_one)

    def run_self_test(self, wanted: DecodeRequest) -> bool:
        """Read a small clip once there is a process; for a thread.

        False where there will be none: the service stops, or `on_fatal` has been told why. Raises
        DecodingUnavailable where the clip cannot be read.
        """
        self._begun.wait()
        why = ""
        for _ in range(_STARTS):
            if self._stopping.is_set() or self._hopeless:
                return False
            try:
                seconds = max(_TRIAL_S, self._limits.seconds)
                self._decode(CancellableRead(InputFiles(clip=self_test.CLIP)), wanted, seconds)
                return True
            except Problem as exc:
                why = exc.detail
            except RuntimeError as exc:
                why = str(exc)
        raise DecodingUnavailable(f"a small clip cannot be read: {why}")

    async def decode(self, files: InputFiles, wanted: DecodeRequest) -> DecodeResult:
        """Decode and preprocess. Cancelled while it waits for a process, it is never run.

        Cancelled while a process reads, it ends that process, and returns when the process's
        place is free: whoever counts requests counts this one until then.

        Raises Problem: as `files.decode` does, and DECODE_TIMEOUT, UNUSABLE where a process died
        of the files, and NOT_READY where no process can be started or none does anything.
        """
        context = copy_context()  # the executor's threads know nothing of the request
        reading = CancellableRead(files)
        run = self._threads.submit(context.run, self._decode, reading, wanted, self._limits.seconds)
        ended = asyncio.wrap_future(run)
        try:
            await asyncio.wait([ended])
        except asyncio.CancelledError:
            run.cancel()
            reading.cancel()
            await _ended(ended)
            raise
        return ended.result()

    def not_ready_reason(self, stalled_after_s: float) -> str | None:
        """Why nothing can be read now: no process can be started, or none of them has got any
        further for `stalled_after_s`. None where files are read."""
        failing = self._fork_server.failing
        if failing is not None:
            return (
                "No decoding process can be started; the log says why. Starts that failed so far: "
                f"{failing.starts}."
            )
        if self._cannot_start:
            return "No decoding process can be started."
        if not self._proven:
            return "The decoding processes are being started."
        if self._fork_server.lost or self._fork_server.silent_s > stalled_after_s:
            return "The decoding processes are being started."
        reading = [time.monotonic() - process.since for process in self._reading.copy()]
        if len(reading) >= self._workers and min(reading) > stalled_after_s:
            return f"Every decoding process is at one file for more than {stalled_after_s:g} s."
        return None

    @property
    def sandbox_layers(self) -> Layers | None:
        """What holds the processes; None before the first one is started."""
        return self._fork_server.layers

    @property
    def fork_server_restarts(self) -> int:
        """How often the process that starts the others was lost."""
        return self._fork_server.restarts

    def watch(self) -> None:
        """Replace what has died or does not answer, until the service stops; a thread's work."""
        while not self._stopping.wait(_WATCH_S):
            with suppress(Problem):
                self._check_fork_server()
                if self._reap_idle() or self._cannot_start:
                    self._start_one()

    def stop(self) -> None:
        """End all processes; what waits for one is never run."""
        self._stopping.set()
        self._begun.set()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._fork_server.stop()

    def _start_one(self) -> None:
        with suppress(Problem):
            self._idle.append(self._fork())

    def _check_fork_server(self) -> None:
        """Raises Problem NOT_READY."""
        try:
            self._fork_server.heartbeat()
        except RuntimeError as exc:
            raise self._none(exc) from exc

    def _reap_idle(self) -> int:
        """Replace idle processes that have died or give no sign of life; how many."""
        buried = 0
        for _ in range(len(self._idle)):
            with suppress(IndexError):  # one is taken meanwhile
                process = self._idle.popleft()
                try:
                    process.heartbeat()
                except wire.PeerLost as exc:
                    self._lose(process, f"{exc}, idle")
                    buried += 1
                else:
                    self._give(process)  # a job may have started another meanwhile
        return buried

    def _fork(self) -> Process:
        """Raises Problem NOT_READY."""
        try:
            process = self._fork_server.fork()
        except RuntimeError as exc:
            raise self._none(exc) from exc
        self._cannot_start = False
        self._begun.set()
        return process

    def _none(self, why: RuntimeError) -> Problem:
        """What is told where there is no process."""
        if not self._cannot_start and not self._stopping.is_set():
            log.error("%s", why)
        self._cannot_start = True
        failing = self._fork_server.failing
        if failing is not None and failing.starts >= _STARTS and not self._hopeless:
            served = self._begun.is_set()
            if not served or time.monotonic() - failing.since > _HOPELESS_S:
                self._hopeless = True
                self._begun.set()
                self._on_fatal(DecodingUnavailable(str(why)))
        return Problem(Error.NOT_READY, "No decoding process can be started.", retry_after_s=5)

    def _decode(
        self, reading: CancellableRead, wanted: DecodeRequest, seconds: float
    ) -> DecodeResult:
        files = reading.files
        loss, fork_server_restarts = wire.PeerLost(), self._fork_server.restarts
        for attempt in range(2):  # a process may have died of something else than these files
            # Not another idle one, which may be as dead: all are where the fork server was killed.
            process = self._fork() if attempt else self._take()
            process.since = time.monotonic()
            self._reading.add(process)
            try:
                with reading.running_in(process):
                    decoded = process.decode(files, self._shared(wanted), seconds)
            except Problem:
                self._proven = True
                self._give(process)
                raise
            except TimeoutError:
                self._lose(process, f"took longer than {seconds:g} s")
                detail = f"Reading the file took longer than {seconds:g} s."
                raise Problem(Error.DECODE_TIMEOUT, detail, field=files.first_field) from None
            except wire.PeerLost as exc:
                self._lose(process, str(exc))
                loss = exc
            except ReadCancelled:
                log.debug("decoding process %d is ended: its request was cancelled", process.pid)
                self._fork_server.kill(process)
                raise
            except BaseException:
                self._fork_server.kill(process)
                raise
            else:
                self._proven = True
                self._give(process)
                return decoded
            finally:
                self._reading.discard(process)
        raise self._lost_twice(loss, files, fork_server_restarts)

    def _lost_twice(
        self, loss: wire.PeerLost, files: InputFiles, fork_server_restarts: int
    ) -> Problem:
        """What is told of files that two processes were lost with, the second one by `loss`.

        `fork_server_restarts`: how often the fork server had been lost before. No file can end
        it, and all processes end with it.
        """
        with suppress(RuntimeError):
            self._fork_server.heartbeat()  # so that it is known whether it is there
        if isinstance(loss, Unresponsive) or self._fork_server.restarts != fork_server_restarts:
            detail = "The decoding processes do not answer."
            return Problem(Error.NOT_READY, detail, retry_after_s=5)
        detail = "The file is damaged: reading it made the decoder fail."
        return Problem(Error.UNUSABLE, detail, field=files.first_field)

    def _shared(self, wanted: DecodeRequest) -> DecodeRequest:
        """The same, by as many threads as leave none of the other processes without one."""
        threads = max(1, self._workers // len(self._reading))
        limits = replace(wanted.limits, threads=threads)
        return wanted.model_copy(update={"limits": limits})

    def _take(self) -> Process:
        """One that has nothing to do, or a new one. Raises Problem NOT_READY."""
        with suppress(IndexError):
            while (process := self._idle.pop()).gone:
                self._lose(process, _DIED_IDLE)
            return process
        return self._fork()

    def _give(self, process: Process) -> None:
        if process.jobs < _JOBS and len(self._idle) < self._workers:
            self._idle.append(process)
        else:
            self._fork_server.kill(process)  # one that is stopped would not see its socket closed

    def _lose(self, process: Process, why: str) -> None:
        self.restarts += 1
        self._fork_server.kill(process)
        stderr_tail = quoted(process.stderr_tail.lines())
        log.warning("decoding process %d is replaced: %s%s", process.pid, why, stderr_tail)


async def _ended(run: asyncio.Future[DecodeResult]) -> None:
    """Wait for its end, also where the task that waits is cancelled again."""
    while not run.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([run])
    if not run.cancelled():
        run.exception()  # which nobody else looks at
