"""Loading one checkpoint: read, copy to the devices, warm up, publish, change to the fused path."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from service.device_link.devices import Devices
from service.errors import StartupError
from service.inference.admission import LoadFactory, LocalLoad
from service.inference.file_watch import FileWatch, file_states
from service.inference.loading import Attempt, Loads
from service.inference.registry import Registry
from service.inference.served_model import ServedModel, load, warm
from service.inference.tuning import Tuning
from service.settings import Settings

log = logging.getLogger("scmrl.registry")


class ModelLoader:
    """Does the work of a load attempt, in its thread, and publishes the result in the registry."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry[ServedModel],
        loads: Loads,
        files: FileWatch,
        stopping: threading.Event,
        devices: Devices,
        on_fatal: Callable[[Exception], None],
        make_load: LoadFactory = LocalLoad,
    ) -> None:
        self._tuning = Tuning(settings, registry, stopping)
        self._settings = settings
        self._registry = registry
        self._loads = loads
        self._files = files
        self._stopping = stopping
        self._devices = devices
        self._on_fatal = on_fatal
        self._make_load = make_load

    def load(self, attempt: Attempt) -> bool:
        """Load a checkpoint and serve it; return False if the load was abandoned meanwhile.

        Raises what served_model.load raises, StartupError if `compile` is on and the checkpoint
        has no fused path, LoadAbandoned, Problem STOPPING.
        """
        name, started = attempt.name, time.monotonic()
        loaded_from = file_states(self._settings.models / name)
        folder = self._settings.models / name
        model = load(folder, self._settings, self._devices, self._on_fatal)
        model.batcher.admission.load = self._make_load()
        with self._loads.exclusive_compute(attempt):
            is_fused = self._settings.compile == "on" and self._fuse(model)
            warm(model)  # it raises DeviceLost where a device was lost, and nothing could be fused
            if self._settings.compile == "on" and not is_fused:
                raise StartupError("SCMRL_COMPILE is on, but the checkpoint has no fused path")
        if not attempt.commit():
            return False
        model.batcher.start()
        self._files.note(name, loaded_from)
        self._registry.publish(model)
        if self._stopping.is_set():  # the service may have stopped all others before
            model.batcher.stop()
        seconds = time.monotonic() - started
        log.info(
            "checkpoint %s %s is ready on %s after %.1f s",
            name, model.card.version, ", ".join(str(e.device) for e in model.engines), seconds,
        )  # fmt: skip
        return True

    def load_and_fuse(self, attempt: Attempt) -> None:
        """Load a checkpoint, serve it, then change it over to its fused path."""
        if self.load(attempt):
            with self._loads.exclusive_compute(attempt):
                self.fuse(attempt.name)

    def fuse(self, name: str) -> None:
        """Change a served checkpoint over to its fused path, if `compile` is auto; then begin to
        measure it where it is on a GPU."""
        model = self._registry.find(name)
        if model is None or self._stopping.is_set():
            return
        if self._settings.compile == "auto":
            started = time.monotonic()
            if self._fuse(model):
                seconds = time.monotonic() - started
                log.info("checkpoint %s runs on its fused path after %.1f s", name, seconds)
        self._tuning.start(model)

    def _fuse(self, model: ServedModel) -> bool:
        precision = self._settings.precision
        if precision != "float32" and not model.card.measured_with(precision):
            log.warning(
                "checkpoint %s runs in float32: its card has no accuracy with %s; measure it "
                "with `scmrl evaluate --write-card`", model.name, precision,
            )  # fmt: skip
            precision = "float32"
        return model.batcher.fuse(precision, model.card.steps)
