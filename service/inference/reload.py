"""Loading, reloading and unloading checkpoints while others are served."""

from __future__ import annotations

import logging
import os
import threading

from model import allocator
from model.checkpoint import CARD
from service.device_link.connection import DeviceLost
from service.errors import Error, Problem
from service.inference.discovery import has_card
from service.inference.in_flight import Counts
from service.inference.loading import Attempt, LoadAbandoned, Loads, timed_out
from service.inference.model_loader import ModelLoader
from service.inference.registry import Registry
from service.inference.served_model import ServedModel
from service.runtime import garbage_collection
from service.settings import Settings

log = logging.getLogger("scmrl.registry")

#: Seconds between two checks whether a checkpoint that is being retired has requests in flight.
_RETIRE_S = 0.05
#: Retry-After in seconds while the process of a device is replaced, and after too little memory.
_RETRY_DEVICE_S, _RETRY_MEMORY_S = 10, 60


class Reloads:
    """Loads and unloads by name, on an operator's request.

    State of a checkpoint that is replaced or unloaded: served -> retiring, while it has requests
    in flight -> stopped.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry[ServedModel],
        in_flight: Counts,
        loads: Loads,
        loader: ModelLoader,
        stopping: threading.Event,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._in_flight = in_flight
        self._loads = loads
        self._loader = loader
        self._stopping = stopping

    def load(self, name: str) -> None:
        """Load a checkpoint, or reload it; blocks.

        The old checkpoint is served until the new one is ready; requests in flight keep the one
        that they began with. Raises Problem CONFLICT if the name is being loaded or unloaded, FULL
        without memory or if too many loads have not ended, UNKNOWN_MODEL, UNUSABLE, LOAD_TIMEOUT,
        STOPPING, and NOT_READY if a device is lost; nothing is changed then.
        """
        self._load(self._loads.reserve(name))

    def unload(self, name: str) -> None:
        """Unload a checkpoint; blocks while it has requests in flight, which are answered.

        Raises Problem UNKNOWN_MODEL, NOT_READY; CONFLICT for the default checkpoint and for a name
        that is being loaded or unloaded; FULL if too many loads have not ended.
        """
        if name == self._registry.default_name:
            detail = f"{name} is the default checkpoint, which cannot be unloaded."
            raise Problem(Error.CONFLICT, detail)
        attempt = self._loads.reserve(name)
        try:
            if self._registry.status(name) == "loading":
                self._registry.get(name)  # raises: it is unknown, or has not been loaded yet
            self._unload(name)
        finally:
            self._loads.release(attempt)

    def _load(self, attempt: Attempt) -> None:
        name = attempt.name
        previous = self._registry.find(name)
        unchanged = "; the loaded checkpoint stays in service" if previous else ""
        try:
            self._loads.run(attempt, lambda: self._load_again(attempt, unchanged))
        except Problem:
            raise
        except LoadAbandoned as exc:
            log.error("cannot serve the checkpoint %s: %s", name, exc)
            detail = f"{name}: {exc} (SCMRL_LOAD_TIMEOUT_S) and was abandoned{unchanged}."
            raise timed_out(detail) from exc
        except MemoryError as exc:
            log.error("cannot serve the checkpoint %s: %s", name, exc)
            lack = "There is too little memory to load"  # or no room for another thread
            detail = f"{lack} {name} at the moment; the log has the reason{unchanged}."
            raise Problem(Error.FULL, detail, retry_after_s=_RETRY_MEMORY_S) from exc
        except DeviceLost as exc:
            log.error("cannot serve the checkpoint %s: %s", name, exc)
            detail = f"A device was lost while {name} was being loaded{unchanged}."
            raise Problem(Error.NOT_READY, detail, retry_after_s=_RETRY_DEVICE_S) from exc
        except Exception as exc:
            log.error("cannot serve the checkpoint %s: %s", name, exc)
            detail = str(exc).replace(f"{self._settings.models}{os.sep}", "")
            raise Problem(Error.UNUSABLE, f"{detail}{unchanged}") from exc
        finally:
            allocator.trim()
        if previous is not None:
            self._retire(previous)
            del previous
            garbage_collection.collect_all()

    def _load_again(self, attempt: Attempt, unchanged: str) -> None:
        if not has_card(self._settings.models, attempt.name):
            path = f"{attempt.name[:100]}/{CARD}"
            detail = f"SCMRL_MODELS has no file {path!r}{unchanged}."
            raise Problem(Error.UNKNOWN_MODEL, detail)
        self._loader.load_and_fuse(attempt)

    def _unload(self, name: str) -> None:
        model = self._registry.remove(name)
        if model is not None:
            self._retire(model)
            del model
            garbage_collection.collect_all()
            log.info("checkpoint %s is unloaded", name)

    def _retire(self, model: ServedModel) -> None:
        """End a checkpoint's workers once it has no request in flight.

        The first wait covers a request that holds the checkpoint and is not counted yet.
        """
        while not self._stopping.wait(_RETIRE_S) and self._in_flight.count(model):
            pass
        model.batcher.stop()
        self._in_flight.forget(model)
