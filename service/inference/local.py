"""The checkpoints of a service whose HTTP and networks share one process."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from service.inference.in_flight import InFlight
from service.inference.loading import LOAD_THREAD
from service.inference.model_server import ModelServer
from service.inference.registry import Registry
from service.inference.served_model import ServedModel
from service.runtime.daemon_thread import in_thread
from service.settings import Settings

if TYPE_CHECKING:
    from model.checkpoint import Card

#: Name of the threads that wait for loads. The pool of asyncio.to_thread finishes answers.
_ADMIN_THREAD = "scmrl-admin"


class LocalModels:
    """`Models` of a ModelServer in this process."""

    def __init__(self, server: ModelServer, settings: Settings) -> None:
        assert isinstance(server.in_flight, InFlight), "its requests come from this process"
        self.in_flight = server.in_flight
        self._server = server
        self._stalled_after_s = settings.stalled_after_s

    @property
    def registry(self) -> Registry[ServedModel]:
        return self._server.registry

    def start(self) -> None:
        for watch in (self._server.watch_workers, self._server.watch_files):
            threading.Thread(target=watch, name="scmrl-watch", daemon=True).start()

    def stop(self) -> None:
        self._server.stop()

    async def load_default(self) -> Card:
        startup, registry = self._server.startup, self.registry
        await in_thread(LOAD_THREAD, startup.load_default)
        return registry.get(registry.default_name).card

    async def load_others(self) -> None:
        await in_thread(LOAD_THREAD, self._server.startup.load_others)

    async def load(self, name: str) -> None:
        await in_thread(_ADMIN_THREAD, lambda: self._server.reloads.load(name))

    async def unload(self, name: str) -> None:
        await in_thread(_ADMIN_THREAD, lambda: self._server.reloads.unload(name))

    async def not_ready_reason(self) -> str | None:
        return self._server.not_ready_reason()

    async def check_alive(self) -> None:
        """This process runs them."""

    async def is_served(self, name: str) -> bool:
        batcher = self.registry.get(name).batcher
        return batcher.not_ready_reason(self._stalled_after_s) is None
