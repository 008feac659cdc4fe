"""The engine process: it runs the networks, and starts, watches and ends the HTTP workers."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from model.module_command import module_command
from service.app import VERSION, limit_store
from service.engine_link.board import Board
from service.engine_link.channel import ChannelLost, RemoteFailure, Reply
from service.engine_link.engine_server import EngineServer, SharedCounts, Worker
from service.engine_link.key_members import members_of
from service.errors import Problem, StartupError
from service.inference.loading import LOAD_THREAD
from service.inference.model_server import ModelServer
from service.keys.key_file import Keys
from service.keys.keyring import Keyring
from service.keys.rate_limit import LocalRateLimits, SharedRateLimits
from service.observability.metrics import Metrics
from service.observability.samples import Processes, SumCollector, dump, without_gauges
from service.observability.state_metrics import LimitMetrics, ModelMetrics, WorkerRestarts
from service.processes.worker_config import WorkerConfig, dump_settings
from service.runtime import cores, garbage_collection, switch_interval
from service.runtime.backoff import backoff_s
from service.runtime.daemon_thread import in_thread
from service.settings import Settings
from service.streaming.slots import LocalStreamLimits, windows_in_flight

log = logging.getLogger("scmrl.workers")

_MODULE = "service.processes.http_worker"
#: Seconds between two checks of the workers.
_WATCH_S = 0.5
#: Wait before a worker is started again that ended before it was ready, in seconds: doubled each
#: time, up to the longest.
_RETRY_S, _MAX_RETRY_S = 1.0, 30.0
#: Workers that ended in a row before they were ready, after which the service gives up if none has
#: ever been ready.
_MAX_FAILED_STARTS = 3
#: Seconds after which a worker hangs that has given no sign of life since its start.
_START_S = 100.0
#: Longest wait for a worker's samples, in seconds.
_SAMPLES_S = 1.0
#: Seconds after the grace period until workers that have not ended are killed.
_KILL_AFTER_S = 3.0


@dataclass
class _Process:
    """A worker's process. `reason`: why it is not ready; "" before its first report. `samples`: the
    last ones that it sent. `started_at`: by time.monotonic()."""

    popen: subprocess.Popen[bytes]
    reason: str | None = ""
    has_been_ready: bool = False
    samples: str = "[]"
    started_at: float = field(default_factory=time.monotonic)


class EngineProcess:
    """Serves with `count` HTTP workers on `listener`, which share `board`.

    - `hangups`: the number of SIGHUPs so far.
    - `on_ready`: called when clips can be answered by every worker.
    - `on_failure`: called when they never can; the caller must then call `stop`.
    """

    def __init__(
        self,
        settings: Settings,
        keys: Keys,
        listener: socket.socket,
        count: int,
        board: Board,
        *,
        hangups: Callable[[], int],
        on_ready: Callable[[], None],
        on_failure: Callable[[StartupError], None],
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._count = count
        self._on_ready = on_ready
        self._fail = on_failure
        self._board = board
        self.in_flight = SharedCounts(
            self._board, lambda: self._server.columns_in_use(), lambda c: self._server.retire(c)
        )
        self._models = ModelServer(
            settings,
            lambda error: on_failure(StartupError(f"the device is lost: {error}")),
            in_flight=self.in_flight,
            make_load=self._board.make_load,
        )
        self._keyring = Keyring(settings, keys, hangups)
        handlers = {
            "report": self._take_report,
            "samples": self._take_samples,
            "fail": self._take_failure,
            "metrics": self._expose,
            "not_ready_reason": lambda number, arguments: Reply(self._not_ready_reason()),
        }
        self._store = store = limit_store(settings)
        self._server = EngineServer(
            self._models,
            keys,
            LocalRateLimits() if store is None else SharedRateLimits(store),
            LocalStreamLimits(settings, store),
            handlers,
            settings.stalled_after_s,
        )
        restarts = WorkerRestarts(lambda: self._restarts)
        self._metrics = Metrics(
            VERSION,
            SumCollector([ModelMetrics(self._models), LimitMetrics(store), restarts], self._dumps),
            Processes(self._pids),
        )
        self._processes: dict[int, _Process] = {}
        self._samples_of_ended: list[str] = []  # of workers, without gauges
        self._restarts = self._failed_starts = 0
        self._is_ready = False
        self._all_ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._within_s = 0
        self._lifeline, self._our_lifeline = os.pipe()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # --- start and stop --------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until `stop`."""
        switch_interval.shorten()
        loop = self._loop = asyncio.get_running_loop()
        registry = self._models.registry
        registry.on_change = lambda: _call_soon(loop, self._server.publish_changes)
        for watch in (self._models.watch_workers, self._models.watch_files, self._keyring.watch):
            threading.Thread(target=watch, name="scmrl-watch", daemon=True).start()
        await self._open_store()
        for number in range(self._count):
            await self._start_with_retries(number)
        for work in (self._server.watch(), self._watch(), self._load()):
            self._begin(work)
        await self._stopping.wait()
        await self._end_workers()
        self._keyring.stop()
        if self._store is not None:
            await self._store.close()
        await asyncio.to_thread(self._models.stop)
        for task in self._tasks:
            task.cancel()

    def stop(self, within_s: int) -> None:
        """Answer what is in flight for up to `within_s` seconds, then end; from any thread, also
        before `run`."""
        self._within_s = within_s
        if self._loop is None:
            self._stopping.set()  # nothing waits for it yet
        else:
            _call_soon(self._loop, self._stopping.set)

    def stop_now(self) -> None:
        """End the workers at once; from any thread."""
        self.stop(0)

    async def _open_store(self) -> None:
        try:
            if self._store is not None:
                await self._store.open()
        except StartupError as exc:
            self._fail(exc)

    async def _load(self) -> None:
        startup = self._models.startup
        try:
            with garbage_collection.disabled():
                await in_thread(LOAD_THREAD, startup.load_default)
        except StartupError as exc:
            self._fail(exc)
            return
        except Problem:
            return  # the service is shutting down
        await self._all_ready.wait()
        await in_thread(LOAD_THREAD, startup.load_others)
        garbage_collection.freeze()

    async def _end_workers(self) -> None:
        """End all workers; those that take longer than the grace period are killed."""
        self._listener.close()  # so that clients are refused, once the workers have closed theirs
        end = time.monotonic() + self._within_s + _KILL_AFTER_S
        for worker in self._server.workers.values():
            worker.channel.note("stop", within_s=max(1, self._within_s), now=self._within_s == 0)
        while time.monotonic() < end and any(p.popen.poll() is None for p in self._all()):
            await asyncio.sleep(0.05)
        for process in self._all():
            if process.popen.poll() is None:
                log.error("HTTP worker (process %d) does not end: it is killed", process.popen.pid)
                process.popen.kill()
                process.popen.wait()

    def _begin(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- the workers -----------------------------------------------------------------------------

    async def _start(self, number: int, is_replacement: bool) -> None:
        """Start a worker and connect to it."""
        control, worker_control = socket.socketpair()
        blocks, worker_blocks = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        settings = self._settings
        if number:  # gRPC has one socket
            settings = settings.model_copy(update={"grpc_port": 0})
        decode_workers = settings.decode_workers or cores.available()
        config = WorkerConfig(
            number=number,
            settings=dump_settings(settings),
            keys=members_of(self._keyring.keys),
            decode_workers=_share(decode_workers, number, self._count),
            stream_windows=_share(windows_in_flight(settings, decode_workers), number, self._count),
            max_connections=_share(settings.max_connections, number, self._count),
            is_replacement=is_replacement,
            listener=self._listener.fileno(),
            control=worker_control.fileno(),
            blocks=worker_blocks.fileno(),
            board=self._board.fd,
            lifeline=self._lifeline,
        )
        with worker_control, worker_blocks:
            process = _Process(_spawn(config))
        self._processes[number] = process
        await self._server.connect(number, control, blocks, self._on_lost)

    def _on_lost(self, worker: Worker) -> None:
        """Replace a worker that has ended, unless the service ends."""
        process = self._processes[worker.number]
        with suppress(ProcessLookupError):
            process.popen.kill()
        if self._stopping.is_set():
            return
        self._begin(self._replace(worker.number, process))

    async def _replace(self, number: int, process: _Process) -> None:
        code = await asyncio.to_thread(process.popen.wait)
        self._board.clear(number)
        ended = [*self._samples_of_ended, without_gauges(process.samples)]
        self._samples_of_ended = [dump(SumCollector((), lambda: ended))]
        process.samples = "[]"
        self._restarts += 1
        log.error(
            "HTTP worker %d (process %d) %s, and is replaced",
            number,
            process.popen.pid,
            _describe_end(code),
        )
        self._failed_starts = 0 if process.has_been_ready else self._failed_starts + 1
        if self._failed_starts:
            if self._failed_starts >= _MAX_FAILED_STARTS and not self._is_ready:
                self._fail(StartupError(f"no HTTP worker can be started: it {_describe_end(code)}"))
                return
            await asyncio.sleep(backoff_s(self._failed_starts, _RETRY_S, _MAX_RETRY_S))
        await self._start_with_retries(number)

    async def _start_with_retries(self, number: int) -> None:
        """Start a worker; retry while the system lacks memory, processes or open files."""
        while not self._stopping.is_set():
            try:
                await self._start(number, is_replacement=self._is_ready)
            except OSError as exc:
                log.error("HTTP worker %d cannot be started: %s", number, exc)
                await asyncio.sleep(_RETRY_S)
            else:
                return

    async def _watch(self) -> None:
        """Kill workers that hang, and send new keys to all, until cancelled."""
        keys = self._keyring.keys
        while True:
            await asyncio.sleep(_WATCH_S)
            if self._keyring.keys is not keys:
                keys = self._keyring.keys
                self._server.publish_keys(keys)
            for number, process in self._processes.items():
                fault = self._fault(number, process)
                if fault is not None and process.popen.poll() is None:
                    log.error(
                        "HTTP worker %d (process %d) %s: it is killed",
                        number, process.popen.pid, fault,
                    )  # fmt: skip
                    process.popen.kill()

    def _fault(self, number: int, process: _Process) -> str | None:
        """Return how a worker hangs; None where it does not."""
        silent_s = self._board.silent_s(number, time.monotonic_ns())
        if silent_s is None:
            is_late = time.monotonic() - process.started_at > _START_S
            return f"has not begun within {_START_S:g} s" if is_late else None
        is_silent = silent_s > self._settings.engine_timeout_s
        return f"has done nothing for {silent_s:.0f} s" if is_silent else None

    def _all(self) -> list[_Process]:
        return list(self._processes.values())

    def _pids(self) -> list[int]:
        workers = [process.popen.pid for process in self._all()]
        return [os.getpid(), *workers, *self._models.devices.pids]

    # --- messages from workers -------------------------------------------------------------------

    def _take_report(self, number: int, arguments: dict[str, Any]) -> None:
        process = self._processes[number]
        process.reason = arguments["reason"]
        process.has_been_ready |= process.reason is None
        if not self._is_ready and all(process.has_been_ready for process in self._all()):
            self._is_ready = True
            self._all_ready.set()
            self._on_ready()

    def _take_samples(self, number: int, arguments: dict[str, Any]) -> None:
        self._processes[number].samples = arguments["dump"]

    def _take_failure(self, number: int, arguments: dict[str, Any]) -> None:
        self._fail(StartupError(arguments["reason"], misused=arguments["misused"]))

    def _not_ready_reason(self) -> str | None:
        reason = self._models.not_ready_reason()
        if reason is None and not self._is_ready:
            reason = "The HTTP workers are being started."
        # One that is replaced accepts no connection.
        reasons = (process.reason for process in self._all() if process.has_been_ready)
        return reason or next(filter(None, reasons), None)

    async def _expose(self, number: int, arguments: dict[str, Any]) -> Reply:
        await asyncio.gather(*map(self._ask_for_samples, self._server.workers.values()))
        accept = arguments["accept"]
        content, content_type = await asyncio.to_thread(self._metrics.exposition, accept)
        return Reply(content_type, [content])

    async def _ask_for_samples(self, worker: Worker) -> None:
        """Take a worker's present samples; its last ones stay where it does not send them."""
        with suppress(TimeoutError, ChannelLost, RemoteFailure):
            async with asyncio.timeout(_SAMPLES_S):
                reply = await worker.channel.call("samples")
            self._processes[worker.number].samples = reply.value

    def _dumps(self) -> list[str]:
        return [*self._samples_of_ended, *(process.samples for process in self._all())]


def _spawn(config: WorkerConfig) -> subprocess.Popen[bytes]:
    """Start a worker's process, without the settings' variables: it gets them in its config."""
    fd = config.write()
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SCMRL_")}
    try:
        return subprocess.Popen(
            module_command(_MODULE, fd),
            pass_fds=[fd, *config.inherited],
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C is for this process, which ends its workers in order
        )
    finally:
        os.close(fd)


def _share(total: int, number: int, count: int) -> int:
    """Return the share of one of `count` workers, at least 1."""
    return max(1, total // count + (number < total % count))


def _describe_end(code: int) -> str:
    """Describe how a process ended."""
    if code < 0:
        return f"was ended by signal {-code} ({signal.strsignal(-code)})"
    return f"ended with exit code {code}"


def _call_soon(loop: asyncio.AbstractEventLoop, work: Callable[[], object]) -> None:
    with suppress(RuntimeError):  # the loop is closed: the service has ended
        loop.call_soon_threadsafe(work)
