"""The start: list the checkpoints, load the default one, then the others."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from functools import partial
from itertools import count

from model.device import DeviceError
from service.device_link.connection import DeviceLost
from service.errors import Error, Problem, StartupError
from service.inference.discovery import discover
from service.inference.loading import LOAD_THREAD, Attempt, LoadAbandoned, Loads
from service.inference.model_loader import ModelLoader
from service.inference.registry import Registry
from service.inference.served_model import ServedModel
from service.runtime import cores, garbage_collection
from service.runtime.backoff import backoff_s
from service.runtime.torch_import import import_torch
from service.settings import Settings

log = logging.getLogger("scmrl.registry")

#: Seconds between readiness and the loading and compiling of other checkpoints, which compete with
#: the first requests for the cores and Python's lock.
_DELAY_S = 1.0
#: Seconds after which a slow load no longer delays the next one.
_OVERTAKE_S = 5.0
#: Losses of a device after which a checkpoint is marked as failed, and the wait after each of them,
#: in seconds: doubled each time, up to the longest.
_MAX_LOSSES = 6
_RETRY_S, _MAX_RETRY_S = 1.0, 30.0


class Startup:
    """Loads the checkpoints of a service that starts, each call in a thread."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry[ServedModel],
        loads: Loads,
        loader: ModelLoader,
        stopping: threading.Event,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._loads = loads
        self._loader = loader
        self._stopping = stopping

    def load_default(self) -> None:
        """List the folders that hold a card, then load the default one and start its queue.

        Raises StartupError if it cannot be served, Problem STOPPING if the service ends.
        """
        name = self._registry.default_name
        try:
            attempt = self._loads.reserve(name)
            self._loads.run(attempt, lambda: self._list(attempt))
            import_torch()
            # torch's own spin on for milliseconds after each use, on cores that others need.
            cores.set_threads(1)
            attempt = self._loads.reserve(name)
            self._loads.run(attempt, lambda: self._loader.load(attempt))
        except Problem:
            raise
        except Exception as exc:
            self._registry.fail(name)
            if isinstance(exc, StartupError):
                raise
            if isinstance(exc, DeviceError):
                raise StartupError(f"--device (SCMRL_DEVICE): {exc}", misused=True) from exc
            is_late = isinstance(exc, LoadAbandoned)
            hint = " (SCMRL_LOAD_TIMEOUT_S, --load-timeout-s)" if is_late else ""
            raise StartupError(f"cannot serve the checkpoint {name}: {exc}{hint}") from exc

    def load_others(self) -> None:
        """Load the others; one that cannot be served is logged and marked as failed.

        Each checkpoint switches to its fused path once it is served, if `compile` is auto: the
        first requests do not wait for a compiler.
        """
        if self._stopping.wait(_DELAY_S):
            return
        cores.set_opencv_threads()
        self._fuse_default()
        threads: list[threading.Thread] = []
        for name in self._registry.names[1:]:
            if self._stopping.is_set():
                return
            thread = threading.Thread(
                target=self._load_other, args=(name,), name=LOAD_THREAD, daemon=True
            )
            threads.append(thread)
            thread.start()
            thread.join(_OVERTAKE_S)
        for thread in threads:
            thread.join()
        if any(self._registry.status(name) == "failed" for name in self._registry.names):
            garbage_collection.collect_all()  # else the objects of a failed load stay frozen

    def _fuse_default(self) -> None:
        """Change the default checkpoint over to its fused path, for at most the limit of a load: a
        compiler that hangs does not hold up the others. It can be loaded again meanwhile."""
        attempt = Attempt(self._registry.default_name)
        attempt.commit()
        with suppress(Problem):  # the service is shutting down
            self._loads.run(attempt, partial(self._loader.fuse, attempt.name))

    def _list(self, attempt: Attempt) -> None:
        """Raises StartupError."""
        names = discover(self._settings.models, self._registry.default_name)
        if attempt.commit():
            self._registry.list_names(names)

    def _load_other(self, name: str) -> None:
        try:
            self._load_on_all_devices(name)
        except Problem as problem:
            if problem.error is Error.FULL:
                self._registry.fail(name)
                log.error("cannot serve the checkpoint %s: %s", name, problem)
            # else an operator loads it, or the service is shutting down
        except Exception as exc:
            self._registry.fail(name)
            log.error("cannot serve the checkpoint %s: %s", name, exc)

    def _load_on_all_devices(self, name: str) -> None:
        """Load it; again where a device is lost meanwhile, since its process is replaced."""
        for losses in count(1):
            attempt = self._loads.reserve(name)
            try:
                self._loads.run(attempt, partial(self._load_unless_done, attempt))
                return
            except DeviceLost as exc:
                if losses == _MAX_LOSSES:
                    raise
                log.warning("loading the checkpoint %s again: %s", name, exc)
            if self._stopping.wait(backoff_s(losses, _RETRY_S, _MAX_RETRY_S)):
                return

    def _load_unless_done(self, attempt: Attempt) -> None:
        """Load it unless an operator has loaded or unloaded it meanwhile."""
        name = attempt.name
        if name in self._registry.names and self._registry.find(name) is None:
            self._loader.load_and_fuse(attempt)
