"""Measurements on GPUs in the background, after a checkpoint is served: tiles, then batch sizes."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from model.thread_name import show_thread_name
from service.device_link.connection import DeviceLost
from service.inference.batch_choice import SIZES, choose_max_batch, longest_batch_s
from service.inference.engines import DeviceNetwork
from service.inference.registry import Registry
from service.inference.served_model import ServedModel
from service.settings import Settings

if TYPE_CHECKING:
    import torch

log = logging.getLogger("scmrl.batching")

#: Measurements of a device that is lost during each.
_ATTEMPTS = 2
#: Longest wait for the replacement of a lost device, and between two looks, in seconds.
_REPLACED_S, _POLL_S = 120.0, 0.5


class Tuning:
    """Measures one checkpoint at a time, each in a thread, until the service stops or the
    checkpoint is no longer served.

    Requests wait for single measurements of a few milliseconds. `kinds`: the kinds of devices that
    are measured.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry[ServedModel],
        stopping: threading.Event,
        kinds: frozenset[str] = frozenset({"cuda"}),
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._stopping = stopping
        self._kinds = kinds
        self._lock = threading.Lock()  # held while one is measured

    def start(self, model: ServedModel) -> threading.Thread | None:
        """Begin to measure a checkpoint; return the thread, None where there is nothing to do."""
        if not any(engine.device.type in self._kinds for engine in model.engines):
            return None
        if not self._settings.tune_s and self._settings.max_batch:
            return None
        thread = threading.Thread(
            target=self._measure, args=(model,), name="scmrl-tune", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as exc:  # the number of threads, or memory, is limited
            log.warning("checkpoint %s is not measured: %s", model.name, exc)
            return None
        return thread

    def _measure(self, model: ServedModel) -> None:
        show_thread_name()

        def is_over() -> bool:
            return self._stopping.is_set() or self._registry.find(model.name) is not model

        with self._lock:
            for device in dict.fromkeys(engine.device for engine in model.engines):
                if device.type in self._kinds:
                    self._measure_on(device, model, is_over)

    def _measure_on(
        self, device: torch.device, model: ServedModel, is_over: Callable[[], bool]
    ) -> None:
        """Measure on one device; where its process is lost meanwhile, once more on the next."""
        for _ in range(_ATTEMPTS):
            engine = self._await_engine(device, model, is_over)
            if engine is None:
                return
            try:
                if self._settings.tune_s:
                    engine.tune(self._settings.tune_s, is_over)
                if not self._settings.max_batch and not is_over():
                    self._choose_max_batch(model, engine)
            except DeviceLost as exc:
                log.warning("measuring %s on %s was interrupted: %s", model.name, device, exc)
            except Exception:  # of a compiler or a driver; it is served as before
                log.exception("measuring %s on %s failed", model.name, device)
                return
            if not engine.is_lost:
                return

    def _await_engine(
        self, device: torch.device, model: ServedModel, is_over: Callable[[], bool]
    ) -> DeviceNetwork | None:
        """Return the checkpoint's engine on a device, once a lost one has been replaced; None
        where that takes too long, or `is_over`."""
        end = time.monotonic() + _REPLACED_S
        while not is_over() and time.monotonic() < end:
            for engine in model.engines:
                if engine.device == device and not engine.is_lost:
                    return engine
            self._stopping.wait(_POLL_S)
        return None

    def _choose_max_batch(self, model: ServedModel, engine: DeviceNetwork) -> None:
        longest_s = longest_batch_s(self._settings.max_wait_s)
        times = engine.batch_times(model.card.steps, SIZES, longest_s)
        chosen = choose_max_batch(times, longest_s, model.batcher.slots)
        if chosen is None:
            return
        model.batcher.set_max_batch(engine, chosen)
        rates = ", ".join(f"{size}: {size / s:.0f}/s" for size, s in sorted(times.items()))
        log.info(
            "checkpoint %s on %s: at most %d requests in a batch (measured %s)",
            model.name, engine.device, chosen, rates,
        )  # fmt: skip
