"""A network in the process of a device, with the interface of model.engine.Engine."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service.device_link.connection import FATAL, Connection, DeviceLost
from service.device_link.device import Device
from service.engine_link.outputs import unpack_output

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from model.config import EnginePath, Precision
    from model.engine.memory import Memory
    from model.network import SCMRL, Output

log = logging.getLogger("scmrl.devices")

#: Time limit in seconds for loading the successor of an engine and running it once: less than that
#: of the supervisor of workers, after which it reports the device as lost.
_RENEW_S = 100.0
#: Bytes of shared memory for the first result; a larger result is requested again.
_FIRST_RESULT = 64 * 1024

#: Errors of the engine that are raised with their own type; others are a DeviceFailure.
_KNOWN: dict[str, type[Exception]] = {"MemoryError": MemoryError, "ValueError": ValueError}

_numbers = count(1)


class DeviceFailure(Exception):
    """An unexpected exception in the process of a device; the message has its type and text."""


@dataclass(frozen=True)
class StoredNetwork:
    """A network as it is sent to processes, kept to load it again after the loss of one.

    `config`: in JSON; `weights`: as safetensors.
    """

    config: str
    weights: bytes

    @classmethod
    def of(cls, network: SCMRL) -> StoredNetwork:
        from safetensors.torch import save

        tensors = {name: x.contiguous() for name, x in network.state_dict().items()}
        return cls(network.config.model_dump_json(), save(tensors))


class DeviceEngine:
    """Runs a network in the process of a device: see model.engine.Engine.

    The process forgets the network when this object is freed. `limit_s`: seconds after which it
    counts as hanging in a load or a warm-up, and is killed; `until`: time.monotonic() at which this
    load must have ended instead. Raises DeviceLost, also from each method that runs something.
    """

    def __init__(
        self,
        device: Device,
        network: StoredNetwork,
        max_batch: int,
        limit_s: float,
        until: float | None = None,
    ) -> None:
        self.max_batch = max_batch
        self._limit_s = limit_s
        self._device = device
        self._network = network
        self._process = device.process()
        self._connection = self._process.connect()
        weakref.finalize(self, self._connection.close)
        self._number = next(_numbers)
        self._running = threading.Lock()
        self._path: EnginePath = "plain"
        self._fuse_arguments: tuple[Precision, int] | None = None
        self._out_of_memory_before = self._out_of_memory_count = 0
        self._result_bytes = _FIRST_RESULT
        self._load(time.monotonic() + limit_s if until is None else until)

    # --- state -----------------------------------------------------------------------------------

    @property
    def path(self) -> EnginePath:
        """The path in use."""
        return self._path

    @property
    def device(self) -> torch.device:
        """The network's device."""
        import torch

        return torch.device(self._device.name)

    @property
    def out_of_memory_count(self) -> int:
        """How often the device was out of memory, including the engines that this one replaces."""
        return self._out_of_memory_before + self._out_of_memory_count

    @property
    def is_lost(self) -> bool:
        """Whether the network is gone, with its process or alone."""
        return self._connection.is_lost or not self._process.is_usable

    @property
    def memory(self) -> Memory | None:
        """The memory of the device, as its process has reported it with the last run of any of its
        networks."""
        return self._process.memory

    # --- work ------------------------------------------------------------------------------------

    def allocate(self, shape: Sequence[int], dtype: str = "float32") -> NDArray[Any]:
        """Return an uninitialized array in memory that the process shares, so that `run` does not
        copy it. Raises MemoryError."""
        return self._allocate(self._connection, shape, dtype)

    def run(
        self,
        inputs: Mapping[str, Tensor],
        steps: int | None = None,
        explain: Collection[str] = (),
    ) -> Output:
        """See Engine.run; the output has no residuals, which training alone needs."""
        from model.engine.outputs import from_arrays

        with self._running:
            referred = {name: self._refer(x.numpy()) for name, x in inputs.items()}
            result = self._allocate_result()
            reply = self._call(
                "run",
                inputs={name: (number, x.shape) for name, (number, x) in referred.items()},
                steps=steps,
                explain=sorted(explain),
                result=self._place(result),
            )
            if "needed" in reply:
                self._result_bytes = reply["needed"]
                result = self._allocate_result()
                reply = self._call("result", result=self._place(result))
        return from_arrays(unpack_output(reply["output"], result))

    def warm_up(self, steps: int, batch_sizes: Iterable[int]) -> None:
        """See Engine.warm_up."""
        self._warm_up(steps, batch_sizes, time.monotonic() + self._limit_s)

    def fuse(self, precision: Precision = "float32", steps: int = 4) -> bool:
        """See Engine.fuse. False if the process is lost meanwhile: the engine's successor
        then fuses."""
        self._fuse_arguments = (precision, steps)
        try:
            return self._fuse(precision, steps, None)
        except DeviceLost as exc:
            log.warning("the fused path on %s is left to its next process: %s", self.device, exc)
            return False

    def tune(self, budget_s: float, is_stopping: Callable[[], bool]) -> bool:
        """See Engine.tune; it ends with its process where the service is stopping. False if the
        process is lost meanwhile."""
        with suppress(DeviceLost), closing(self._process.connect()) as connection:
            arguments = {"number": self._number, "budget_s": budget_s}
            reply = self._answer(connection, "tune", arguments, None)
            self._path = reply["path"]
            return bool(reply["tuned"])
        return False

    def batch_times(self, steps: int, sizes: Iterable[int], longest_s: float) -> dict[int, float]:
        """See Engine.batch_times."""
        with closing(self._process.connect()) as connection:
            arguments = {
                "number": self._number,
                "steps": steps,
                "sizes": list(sizes),
                "longest_s": longest_s,
            }
            reply = self._answer(connection, "batch_times", arguments, None)
        return {int(size): float(seconds) for size, seconds in reply["times"]}

    def set_max_batch(self, max_batch: int) -> None:
        """See Engine.set_max_batch."""
        self.max_batch = max_batch
        with closing(self._process.connect()) as connection:
            arguments = {"number": self._number, "max_batch": max_batch}
            self._answer(connection, "set_max_batch", arguments, None)

    def renew(self) -> DeviceEngine:
        """Return another engine of this network, device and path, to replace a lost one.

        A process that hangs in a run of this engine is killed, and one that has ended is replaced.
        The new engine is run once. Raises DeviceLost, also where that takes too long.
        """
        if self._running.locked() or self._connection.is_busy:
            self._process.kill("it hangs")
        until = time.monotonic() + _RENEW_S
        successor = DeviceEngine(self._device, self._network, self.max_batch, self._limit_s, until)
        successor._out_of_memory_before = self.out_of_memory_count
        if self._fuse_arguments is not None:
            successor._fuse_arguments = self._fuse_arguments
            successor._fuse(*self._fuse_arguments, until)
        successor._warm_up(1, [1], until)
        return successor

    # --- calls -----------------------------------------------------------------------------------

    def _load(self, until: float) -> None:
        """Send the weights through a connection of its own, whose memory is then freed."""
        weights = self._network.weights
        with closing(self._process.connect()) as connection:
            whole = self._allocate(connection, (-(-len(weights) // 4),))
            whole.view(np.uint8)[: len(weights)] = np.frombuffer(weights, np.uint8)
            arguments = {
                "number": self._number,
                "config": self._network.config,
                "weights": (connection.blocks.refer(whole)[0].block, whole.shape),
                "bytes": len(weights),
                "max_batch": self.max_batch,
            }
            self._answer(connection, "load", arguments, until)
            self._call("adopt", until, number=self._number)

    def _warm_up(self, steps: int, batch_sizes: Iterable[int], until: float) -> None:
        self._call("warm_up", until, steps=steps, batch_sizes=list(batch_sizes))
        self._device.note_success()

    def _fuse(self, precision: Precision, steps: int, until: float | None) -> bool:
        """Fuse through a connection of its own, since runs go on meanwhile."""
        with closing(self._process.connect()) as connection:
            arguments = {"number": self._number, "precision": precision, "steps": steps}
            reply = self._answer(connection, "fuse", arguments, until)
        self._path = reply["path"]
        return bool(reply["fused"])

    def _call(self, method: str, until: float | None = None, **arguments: Any) -> dict[str, Any]:
        return self._answer(self._connection, method, arguments, until)

    def _answer(
        self, connection: Connection, method: str, arguments: dict[str, Any], until: float | None
    ) -> dict[str, Any]:
        try:
            reply = connection.call(method, arguments, until)
        except DeviceLost as exc:
            raise self._lost(str(exc)) from exc
        if connection is self._connection:
            self._out_of_memory_count = reply["out_of_memory"]
        if reply["memory"] is not None:
            from model.engine.memory import Memory

            self._process.memory = Memory(*reply["memory"])
        if "error" in reply:
            raise self._error(reply["error"], reply["message"])
        return reply

    def _error(self, name: str, message: str) -> Exception:
        """Return the error of a call that has failed in the process."""
        if name in FATAL:
            return self._lost(f"{name}: {message}")
        return _KNOWN[name](message) if name in _KNOWN else DeviceFailure(f"{name}: {message}")

    def _lost(self, reason: str) -> DeviceLost:
        """End the process, which has failed, and return the error of its caller."""
        self._process.give_up(reason)
        return DeviceLost(reason)

    # --- shared memory ---------------------------------------------------------------------------

    def _allocate(
        self, connection: Connection, shape: Sequence[int], dtype: str = "float32"
    ) -> NDArray[Any]:
        try:
            return connection.blocks.allocate(shape, dtype)
        except ConnectionError as exc:
            raise self._lost(f"its socket is closed: {exc}") from exc

    def _allocate_result(self) -> NDArray[Any]:
        return self.allocate((-(-self._result_bytes // 4),))

    def _refer(self, values: NDArray[Any]) -> tuple[int, NDArray[Any]]:
        """Return the block of an array and the array, copied unless it is in a block already."""
        try:
            reference, values = self._connection.blocks.refer(values)
        except ConnectionError as exc:
            raise self._lost(f"its socket is closed: {exc}") from exc
        return reference.block, values

    def _place(self, values: NDArray[Any]) -> tuple[int, tuple[int, ...]]:
        """Return the block and shape of an array from `allocate`."""
        return self._refer(values)[0], values.shape
