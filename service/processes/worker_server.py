"""An HTTP worker: its app, its server, and its messages to and from the engine process."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

from prometheus_client.registry import Collector

from service.app import Parts, assemble
from service.engine_link.blocks import BlockPool
from service.engine_link.board import Board
from service.engine_link.channel import Reply
from service.engine_link.engine_client import (
    EngineClient,
    RemoteKeys,
    RemoteRateLimits,
    RemoteStreamLimits,
)
from service.engine_link.key_members import keys_of
from service.engine_link.remote_models import RemoteModels
from service.engine_link.snapshot import Snapshot
from service.errors import StartupError
from service.http.state import State
from service.observability import logs
from service.observability.samples import dump
from service.processes.worker_config import WorkerConfig
from service.runtime.upload_budget import UploadBudget
from service.server.server import server_of

log = logging.getLogger("scmrl.workers")

#: Seconds between two reports to the engine process.
_REPORT_S = 0.5
#: Reports for each time that all samples are sent, so that little is lost where this worker dies.
_REPORTS_PER_DUMP = 4
#: Seconds in which a worker ends by itself after the engine process has.
_END_S = 3.0


def run(config_fd: int) -> None:
    """Serve until the engine process ends this worker, or has ended itself."""
    config = WorkerConfig.read(config_fd)
    settings = config.make_settings()
    logs.configure(settings.log_level, settings.log_format)
    threading.Thread(
        target=_end_with, args=(config.lifeline,), name="scmrl-lifeline", daemon=True
    ).start()
    worker = HttpWorker(config)
    with asyncio.Runner(loop_factory=worker.loop_factory) as runner:
        runner.run(worker.serve())
    logging.shutdown()
    os._exit(0)  # modules may be being imported in a thread


def _end_with(lifeline: int) -> None:
    """End this process some seconds after the engine process, whatever it is doing."""
    os.read(lifeline, 1)
    time.sleep(_END_S)
    os._exit(1)


class HttpWorker:
    """The parts of one HTTP worker."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        settings = config.make_settings()
        self._settings = settings
        self._row = Board(config.board).row(config.number)
        handlers = {
            "checkpoints": self._apply_snapshot,
            "keys": self._set_keys,
            "samples": lambda _: Reply(dump(self._counted)),
            "stop": self._stop,
        }
        self._client = EngineClient(handlers, self._on_engine_lost)
        blocks = BlockPool(socket.socket(fileno=config.blocks))
        self._models = RemoteModels(settings.default_model, self._row, self._client, blocks)
        keys = keys_of(config.keys)
        self._keys = RemoteKeys(keys)
        self._counted: Collector
        self._is_ready = asyncio.Event()
        parts = Parts(
            models=self._models,
            keys=self._keys,
            limits=RemoteRateLimits(self._client),
            stream_limits=RemoteStreamLimits(self._client),
            uploads=UploadBudget(settings.max_total_upload_bytes, self._row.add_upload),
            decode_workers=config.decode_workers,
            stream_windows=config.stream_windows,
            max_connections=config.max_connections,
            expose=self._expose,
            allocate=blocks.allocate,
        )
        self._app = assemble(settings, parts, keys, self._is_ready.set, self._fail)
        self._state: State = self._app.state.scmrl
        self._server = server_of(self._app)
        # The engine process handles signals, and ends its workers.
        self._server.handle_exit = lambda sig, frame: None  # type: ignore[method-assign]
        self._has_ended = False

    @property
    def loop_factory(self) -> Callable[[], asyncio.AbstractEventLoop] | None:
        return self._server.config.get_loop_factory()

    async def serve(self) -> None:
        """Serve until `stop`."""
        control = socket.socket(fileno=self._config.control)
        await self._client.connect(control)
        reporting = asyncio.create_task(self._report())
        async with self._app.router.lifespan_context(self._app):
            while self._config.is_replacement and not self._is_ready.is_set():
                if self._server.should_exit:
                    break
                await asyncio.sleep(_REPORT_S / 10)
            await self._server.serve(sockets=[socket.socket(fileno=self._config.listener)])
        reporting.cancel()
        self._client.note("samples", dump=dump(self._counted))
        self._has_ended = True
        self._client.close()

    # --- messages to the engine process ----------------------------------------------------------

    async def _report(self) -> None:
        """Report readiness and samples to the engine process when they change, until cancelled."""
        last_reason: str | None = ""
        last_dump = ""
        for number in count():
            self._row.note_alive(time.monotonic_ns())
            reason = self._not_ready_reason()
            if reason != last_reason:
                self._client.note("report", reason=reason)
            last_reason = reason
            if number % _REPORTS_PER_DUMP == 0 and (counted := dump(self._counted)) != last_dump:
                self._client.note("samples", dump=counted)
                last_dump = counted
            await asyncio.sleep(_REPORT_S)

    def _not_ready_reason(self) -> str | None:
        if not self._is_ready.is_set():
            return "An HTTP worker is being started."
        return self._state.decoders.not_ready_reason(self._settings.stalled_after_s)

    def _fail(self, error: StartupError) -> None:
        self._client.note("fail", reason=str(error), misused=error.misused)

    def _expose(self, counted: Collector) -> Callable[[str], Awaitable[tuple[bytes, str]]]:
        self._counted = counted

        async def exposition(accept: str) -> tuple[bytes, str]:
            reply = await self._client.call("metrics", accept=accept)
            return bytes(reply.parts[0]), str(reply.value)

        return exposition

    # --- messages from the engine process --------------------------------------------------------

    async def _apply_snapshot(self, arguments: dict[str, Any]) -> Reply:
        await self._models.apply(Snapshot.model_validate_json(arguments["snapshot"]))
        return Reply()

    def _set_keys(self, arguments: dict[str, Any]) -> None:
        self._keys.keys = keys_of(arguments)

    def _stop(self, arguments: dict[str, Any]) -> None:
        self._end(arguments["within_s"], arguments["now"])

    def _end(self, within_s: int, now: bool) -> None:
        self._server.config.timeout_graceful_shutdown = within_s
        self._server.should_exit = True
        if now:
            self._server.force_exit = True

    def _on_engine_lost(self) -> None:
        if not self._has_ended:
            log.critical(
                "the engine process has ended; HTTP worker %d ends as well", self._config.number
            )
        self._end(1, now=False)
