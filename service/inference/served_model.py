"""A checkpoint on its devices, with the queue in front of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from service.device_link.devices import Devices
from service.device_link.process import ProcessOptions
from service.inference.batch_choice import DEFAULT_MAX_BATCH
from service.inference.batching import Batcher, Slot
from service.inference.engines import DeviceNetwork
from service.runtime import cores
from service.settings import Settings

if TYPE_CHECKING:
    from model.checkpoint import Card
    from model.network import SCMRL


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A checkpoint on its devices, warmed, with the queue in front of them.

    `name` is that of its folder, by which requests select it.
    """

    name: str
    card: Card
    batcher: Batcher

    @property
    def engines(self) -> Sequence[DeviceNetwork]:
        """The engine of each device."""
        return self.batcher.engines

    @property
    def device(self) -> str:
        """Its devices, separated by commas."""
        return ", ".join(str(engine.device) for engine in self.engines)

    @property
    def path(self) -> str | None:
        """The path that computes it; None while its worker is being replaced."""
        return next((engine.path for engine in self.engines), None)

    @property
    def pressure(self) -> float:
        """The load, from 0 (nothing in flight) to 1 (requests are rejected)."""
        return self.batcher.pressure

    def check_capacity(self) -> None:
        """Raise Problem FULL if no slot is free. Call it before an upload is read."""
        self.batcher.check_capacity()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot]:
        """Hold a slot for one request until the block ends. Raises Problem FULL."""
        with self.batcher.slot() as slot:
            yield slot


def make_processes(settings: Settings) -> Devices:
    """Return the processes of devices, for `load`; none is started where there is one device."""
    threads = cores.threads(settings.threads)
    options = ProcessOptions(threads, settings.log_level, settings.log_format)
    return Devices(options, settings.load_timeout_s)


def load(
    folder: Path,
    settings: Settings,
    processes: Devices,
    on_fatal: Callable[[Exception], None] = lambda error: None,
) -> ServedModel:
    """Read and verify one checkpoint and copy it to its devices, without starting its queue.

    With several devices, each is in one of `processes`. Raises model.checkpoint.CheckpointError
    naming file and field, RuntimeError where the device is not there, DeviceLost.
    """
    from model import checkpoint

    network, card = checkpoint.load(folder)
    batcher = Batcher(
        _place(network, settings, processes),
        max_wait_s=settings.max_batch_wait_ms / 1000,
        max_wait_under_load_s=settings.max_batch_wait_under_load_ms / 1000,
        slots=settings.queue_length,
        max_estimated_wait_s=settings.max_wait_s,
        on_fatal=on_fatal,
    )
    return ServedModel(folder.name, card, batcher)


def _place(network: SCMRL, settings: Settings, processes: Devices) -> Sequence[DeviceNetwork]:
    """Return the network on each of its devices."""
    from model.engine import Engine, devices

    names = devices(settings.device)
    max_batch = settings.max_batch or DEFAULT_MAX_BATCH
    if len(names) > 1:
        return processes.load(names, network, max_batch)
    return [Engine(network, names[0], cores.threads(settings.threads), max_batch)]


def warm(model: ServedModel) -> None:
    """Run inference once, so that the first request does not wait for lazy initialization."""
    for engine in model.engines:
        # Nothing on a CPU depends on the batch size: further sizes would only delay readiness.
        sizes = {1} if engine.device.type == "cpu" else {1, engine.max_batch}
        engine.warm_up(model.card.steps, sorted(sizes))
