"""A pool of confined decoding processes."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import replace

import numpy as np

from model.thread_name import show_thread_name
from service.classification.upload_fields import InputFiles
from service.decoding import self_test, wire
from service.decoding.availability import Availability, DecodingUnavailable, State
from service.decoding.cancellable_read import CancellableRead, ReadCancelled
from service.decoding.fork_server import DecodeLimits, ForkServer
from service.decoding.job import DecodeRequest, DecodeResult
from service.decoding.live_decoder import LiveDecoder
from service.decoding.live_wire import LiveRequest
from service.decoding.proc_status import Unresponsive
from service.decoding.process import Process
from service.decoding.process_set import ProcessSet
from service.decoding.sandbox import Layers
from service.errors import Error, Problem, out_of_memory

log = logging.getLogger("scmrl.decoding")

#: Seconds between two health checks.
_WATCH_S = 1.0
#: Attempts of the self test.
_SELF_TEST_ATTEMPTS = 3
#: Least time limit of the self test, in seconds: the machine may be busy at the start, and
#: `decode_timeout_s` may be set for faster files.
_SELF_TEST_S = 30.0


class DecoderPool:
    """Decodes with at most `workers` processes at a time; more jobs wait in order.

    A job that runs alone may use as many threads as there are workers.

    - A process that dies, hangs or exceeds its memory costs its request, and is replaced. The
      files are tried twice, as the process may have died of something else.
    - A process that is stopped costs no request: another process reads the files.
    - A process whose request is cancelled is ended.

    Three state machines work together: `ForkServer` starts processes, `ProcessSet` has the idle
    and busy ones, and `Availability` tracks whether the pool can decode. `on_unavailable` is called
    once if it never will again. `allocate` makes the arrays that tensors are received into.
    """

    def __init__(
        self,
        workers: int,
        limits: DecodeLimits,
        on_unavailable: Callable[[DecodingUnavailable], None] = lambda error: None,
        allocate: wire.Allocate = np.empty,
    ) -> None:
        self._workers = workers
        self._limits = limits
        self._allocate = allocate
        self._threads = ThreadPoolExecutor(
            workers, thread_name_prefix="scmrl-decode", initializer=show_thread_name
        )
        self._fork_server = ForkServer(limits)
        self._availability = Availability(on_unavailable)
        self._processes = ProcessSet(workers, self._fork_server, self._availability)
        self._stopping = threading.Event()

    def start(self) -> None:
        """Start the first process in the background. Optional: the first job then waits less."""
        self._threads.submit(self._processes.add_idle)

    def stop(self) -> None:
        """End all processes, and drop jobs that wait for one."""
        self._stopping.set()
        self._availability.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._fork_server.stop()

    def watch(self) -> None:
        """Replace processes that died or hang, until `stop`; blocks, so run it in a thread."""
        while not self._stopping.wait(_WATCH_S):
            with suppress(Problem):
                self._check_fork_server()
                reaped = self._processes.reap_idle()
                if reaped or self._availability.state in (State.FAILING, State.FAILED):
                    self._processes.add_idle()

    def run_self_test(self, request: DecodeRequest) -> bool:
        """Decode small files once the first process has started; blocks.

        The files are for the streams of the request; nothing is decoded if there is no small file
        for any of them. Returns False where the pool stops or fails. Raises DecodingUnavailable
        where a file cannot be decoded.
        """
        self._availability.wait_for_first_start()
        files = self_test.files(request.kinds)
        if files is None:
            return not self._availability.is_over
        request = request.model_copy(update={"missing_streams": True})
        reason = ""
        for _ in range(_SELF_TEST_ATTEMPTS):
            if self._availability.is_over:
                return False
            try:
                seconds = max(_SELF_TEST_S, self._limits.seconds)
                self._decode(CancellableRead(files), request, seconds)
                return True
            except Problem as exc:
                reason = exc.detail
            except RuntimeError as exc:
                reason = str(exc)
        raise DecodingUnavailable(f"a small clip cannot be read: {reason}")

    async def decode(self, files: InputFiles, request: DecodeRequest) -> DecodeResult:
        """Decode and preprocess the files of a request.

        Cancelled while it waits for a process, it never runs, and returns at once. Cancelled while
        a process reads, it ends the process and returns when its slot is free, so that a request
        counts as in flight until then.

        Raises Problem as `files.decode` does, and DECODE_TIMEOUT; UNUSABLE where processes died
        of the files; NOT_READY where no process can be started or none responds.
        """
        context = copy_context()  # the request's, which the executor's threads do not have
        reading = CancellableRead(files)
        job = self._threads.submit(
            context.run, self._decode, reading, request, self._limits.seconds
        )
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            job.cancel()
            if reading.cancel():
                await _wait_until_done(asyncio.wrap_future(job))
            raise  # else its thread waits for a process, whose start may take a minute

    async def open_live(
        self, request: LiveRequest, memory_bytes: int, within_s: float
    ) -> LiveDecoder:
        """Start the decoder of a live stream, in a process beside those of the pool.

        The caller closes it. It may allocate `memory_bytes`; the time limit of a packet is that of
        a job in the pool. Raises Problem NOT_READY, also where it has not started in
        `within_s` seconds, and PeerLost.
        """
        starting = asyncio.ensure_future(asyncio.to_thread(self._processes.fork_live, memory_bytes))
        try:
            async with asyncio.timeout(within_s):
                process = await asyncio.shield(starting)
        except (asyncio.CancelledError, TimeoutError) as exc:
            starting.add_done_callback(self._end_started)
            if isinstance(exc, asyncio.CancelledError):
                raise
            detail = f"No decoding process has started within {within_s:g} s."
            raise Problem(Error.NOT_READY, detail, retry_after_s=5) from None
        decoder = LiveDecoder(process, self._processes.end, self._limits.seconds)
        try:
            await decoder.open(request)
        except BaseException:
            await decoder.close()
            raise
        return decoder

    def _end_started(self, starting: asyncio.Future[Process]) -> None:
        """End a process whose stream has ended before it was started."""
        if not starting.cancelled() and starting.exception() is None:
            self._threads.submit(self._processes.end, starting.result())

    def not_ready_reason(self, stalled_after_s: float) -> str | None:
        """Return why no file can be decoded now, or None.

        That is so where no process can be started, or none has made progress for
        `stalled_after_s` seconds.
        """
        failed_starts = self._fork_server.failed_starts
        if failed_starts is not None:
            return (
                "No decoding process can be started; the log has the reason. Failed starts so far: "
                f"{failed_starts.count}."
            )
        state = self._availability.state
        if state in (State.FAILING, State.FAILED):
            return "No decoding process can be started."
        if (
            state is State.STARTING
            or self._fork_server.is_being_replaced
            or self._fork_server.silent_s > stalled_after_s
        ):
            return "The decoding processes are being started."
        if self._processes.all_busy_for(stalled_after_s):
            return f"Every decoding process has been at one file for over {stalled_after_s:g} s."
        return None

    @property
    def sandbox_layers(self) -> Layers | None:
        """Sandbox layers of the processes; None before the first one has started."""
        return self._fork_server.sandbox_layers

    @property
    def restarts(self) -> int:
        """Decoding processes that died or hung, and were replaced."""
        return self._processes.restarts

    @property
    def fork_server_restarts(self) -> int:
        """Fork servers that died or hung, and were replaced."""
        return self._fork_server.restarts

    def _check_fork_server(self) -> None:
        """Raises Problem NOT_READY."""
        try:
            self._fork_server.heartbeat()
        except RuntimeError as exc:
            raise self._processes.start_failed(exc) from exc

    def _decode(
        self, reading: CancellableRead, request: DecodeRequest, seconds: float
    ) -> DecodeResult:
        """Decode with one process and, where that is lost, once more with a new one."""
        files = reading.files
        restarts_before = self._fork_server.restarts
        try:
            return self._decode_with(self._processes.acquire(), reading, request, seconds)
        except wire.PeerLost:
            # Not with another idle process: where the fork server was killed, all have died.
            process = self._processes.fork()
        try:
            return self._decode_with(process, reading, request, seconds)
        except wire.PeerLost as exc:
            raise self._explain_loss(exc, files, restarts_before) from None

    def _decode_with(
        self, process: Process, reading: CancellableRead, request: DecodeRequest, seconds: float
    ) -> DecodeResult:
        """Decode with `process`, which is idle or ended afterwards.

        Raises Problem as `decode` does, PeerLost, and ReadCancelled where the request is cancelled.
        """
        files = reading.files
        self._processes.begin_job(process)
        try:
            with reading.running_in(process):
                decoded = process.decode(
                    files, self._share_threads(request), seconds, self._allocate
                )
        except Problem:
            self._availability.note_read()
            self._processes.release(process)
            raise
        except TimeoutError:
            self._processes.replace(process, f"took longer than {seconds:g} s")
            detail = f"Reading the file took longer than {seconds:g} s."
            raise Problem(Error.DECODE_TIMEOUT, detail, field=files.first_field) from None
        except wire.PeerLost as exc:
            self._processes.replace(process, str(exc))
            raise
        except MemoryError as exc:  # here, not in the process, whose result is not read to its end
            log.warning("a decoded clip is refused: %s", exc)
            self._processes.end(process)
            raise out_of_memory() from exc
        except ReadCancelled:
            log.debug("decoding process %d is ended: its request was cancelled", process.pid)
            self._processes.end(process)
            raise
        except BaseException:
            self._processes.end(process)
            raise
        else:
            self._availability.note_read()
            self._processes.release(process)
            return decoded
        finally:
            self._processes.busy.discard(process)

    def _explain_loss(
        self, loss: wire.PeerLost, files: InputFiles, restarts_before: int
    ) -> Problem:
        """Return the problem of a request that lost two processes, the second by `loss`.

        The files are not the cause if the fork server was lost since it had `restarts_before`: no
        file can end it, and all processes end with it.
        """
        with suppress(RuntimeError):
            self._fork_server.heartbeat()  # counts a loss that was not detected yet
        if isinstance(loss, Unresponsive) or self._fork_server.restarts != restarts_before:
            detail = "The decoding processes do not respond."
            return Problem(Error.NOT_READY, detail, retry_after_s=5)
        detail = "The file is damaged: reading it made the decoder fail."
        return Problem(Error.UNUSABLE, detail, field=files.first_field)

    def _share_threads(self, request: DecodeRequest) -> DecodeRequest:
        """Give the job as many threads as leave one for each other process."""
        threads = max(1, self._workers // len(self._processes.busy))
        limits = replace(request.limits, threads=threads)
        return request.model_copy(update={"limits": limits})


async def _wait_until_done(job: asyncio.Future[DecodeResult]) -> None:
    """Wait for the end of a job, also where the waiting task is cancelled again."""
    while not job.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([job])
    if not job.cancelled():
        job.exception()  # retrieved, so that asyncio does not warn
