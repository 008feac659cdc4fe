"""The served checkpoints of one service, assembled.

Startup, Reloads -> ModelLoader -> Registry -> InFlight -> routes
      (in turn: Loads)       (FileWatch, watch: while they are served)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from service.inference import watch
from service.inference.admission import LoadFactory, LocalLoad
from service.inference.batching import JOIN_S
from service.inference.file_watch import FileWatch
from service.inference.in_flight import Counts, InFlight
from service.inference.loading import STOPPING, Loads
from service.inference.model_loader import ModelLoader
from service.inference.registry import Registry
from service.inference.reload import Reloads
from service.inference.served_model import ServedModel, make_processes
from service.inference.startup import Startup
from service.settings import Settings


class ModelServer:
    """Makes the parts and stops them. `on_fatal` receives an error that a device cannot survive.

    Where other processes send the requests, `in_flight` counts those of all, and `make_load`
    returns where the numbers of a checkpoint's admission are kept.
    """

    def __init__(
        self,
        settings: Settings,
        on_fatal: Callable[[Exception], None] = lambda error: None,
        *,
        in_flight: Counts | None = None,
        make_load: LoadFactory = LocalLoad,
    ) -> None:
        self._settings = settings
        self._made_at = time.monotonic()
        self._stopping = stopping = threading.Event()
        self.registry = registry = Registry[ServedModel](settings.default_model)
        self.in_flight: Counts = InFlight(registry) if in_flight is None else in_flight
        self.files = FileWatch(settings.models)
        loads = Loads(
            settings.load_timeout_s, lambda: self.in_flight.is_draining or stopping.is_set()
        )
        self.devices = make_processes(settings)
        loader = ModelLoader(
            settings, registry, loads, self.files, stopping, self.devices, on_fatal, make_load
        )
        self.startup = Startup(settings, registry, loads, loader, stopping)
        self.reloads = Reloads(settings, registry, self.in_flight, loads, loader, stopping)

    def watch_workers(self) -> None:
        """Replace lost workers until `stop`; blocks, so run it in a thread."""
        watch.watch_workers(self.registry, self._settings.engine_timeout_s, self._stopping)

    def watch_files(self) -> None:
        """Check the checkpoints' files until `stop`; blocks, so run it in a thread."""
        watch.watch_files(self.registry, self.files, self._stopping)

    def stop(self) -> None:
        """Start nothing more, and end all workers after their current batches, and the processes
        of devices."""
        self._stopping.set()
        batchers = [model.batcher for model in self.registry.ready.values()]
        for batcher in batchers:
            batcher.close()
        end = time.monotonic() + JOIN_S  # of all together
        for batcher in batchers:
            batcher.join(end)
        self.devices.stop()

    def not_ready_reason(self) -> str | None:
        """Return why /readyz answers 503; None if the default checkpoint can answer."""
        if self.in_flight.is_draining:
            return STOPPING
        name = self.registry.default_name
        model = self.registry.find(name)
        if model is not None:
            return model.batcher.not_ready_reason(self._settings.stalled_after_s)
        if self.registry.status(name) == "failed":
            return f"The default checkpoint {name} could not be loaded. The log has the reason."
        seconds = time.monotonic() - self._made_at
        return (
            f"The default checkpoint {name} is being loaded: for {seconds:.0f} s so far, at most "
            f"{self._settings.load_timeout_s:g} s (SCMRL_LOAD_TIMEOUT_S)."
        )
