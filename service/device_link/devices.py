"""All devices of a service that has a process for each."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from service.device_link.connection import DeviceLost
from service.device_link.device import Device
from service.device_link.engine import DeviceEngine, StoredNetwork
from service.device_link.process import ProcessOptions

if TYPE_CHECKING:
    from model.network import SCMRL

#: Seconds in which processes may end by themselves before they are killed.
_END_S = 2.0


class Devices:
    """All devices that have a process each: none before the first checkpoint is loaded.

    `limit_s`: seconds after which a process counts as hanging that loads a network, or warms it up.
    """

    def __init__(self, options: ProcessOptions, limit_s: float) -> None:
        self._options = options
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._devices: list[Device] = []
        self._is_stopped = False

    def load(
        self, names: Sequence[str], network: SCMRL, max_batch: int
    ) -> tuple[DeviceEngine, ...]:
        """Load a network on each device, at the same time. `names` are the same at each call.

        Raises DeviceLost, and what the engine raises.
        """
        with self._lock:
            if self._is_stopped:
                raise DeviceLost("the service is shutting down")
            self._devices = self._devices or [Device(name, self._options) for name in names]
        stored = StoredNetwork.of(network)
        with ThreadPoolExecutor(len(names)) as threads:
            return tuple(
                threads.map(
                    lambda device: DeviceEngine(device, stored, max_batch, self._limit_s),
                    self._devices,
                )
            )

    @property
    def pids(self) -> list[int]:
        """The ids of their processes."""
        return [pid for device in self._devices if (pid := device.pid) is not None]

    def stop(self) -> None:
        """End all processes, and start no other."""
        with self._lock:
            self._is_stopped = True
            for device in self._devices:
                device.begin_stop()
            end = time.monotonic() + _END_S  # of all together
            for device in self._devices:
                device.stop(end)
