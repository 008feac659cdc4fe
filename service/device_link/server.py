"""The process of a device: it runs the networks of all checkpoints there."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from safetensors.torch import load as load_tensors

from model.arrays import Float32Array
from model.checkpoint.checkpoint import build
from model.config import Config
from model.engine import Engine
from model.engine.outputs import to_arrays
from model.thread_name import show_thread_name
from service.device_link import messages
from service.device_link.connection import FATAL
from service.engine_link.blocks import Reference, SharedBlocks
from service.engine_link.outputs import pack_output
from service.runtime import garbage_collection

log = logging.getLogger("scmrl.devices")

#: Seconds between two measurements of the device's memory.
_MEMORY_S = 1.0


class DeviceServer:
    """Serves the callers of one device, each connection in a thread."""

    def __init__(self, device: str, threads: int) -> None:
        self.device = device
        self.threads = threads
        #: By number; each is kept by the connection that has adopted it.
        self.engines: WeakValueDictionary[int, Engine] = WeakValueDictionary()

    def serve(self, control: socket.socket) -> None:
        """Serve the connections that come through `control`, until the service closes it."""
        while True:
            message, fds, _, _ = socket.recv_fds(control, 1, 2)
            if not message:
                return
            calls, blocks = (socket.socket(fileno=fd) for fd in fds)
            caller = _Caller(self, calls, blocks)
            threading.Thread(target=caller.serve, name="scmrl-engine", daemon=True).start()


class _Caller:
    """One connection. `_engine`: the one that was loaded through it, or that it has adopted."""

    def __init__(self, server: DeviceServer, calls: socket.socket, blocks: socket.socket) -> None:
        self._server = server
        self._calls = calls
        self._blocks = SharedBlocks(blocks)
        self._engine: Engine | None = None
        self._unsent: tuple[Any, list[memoryview]] | None = None
        self._measured_at = -_MEMORY_S
        self._has_adopted = self._is_fatal = False
        self._methods: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "load": self._load,
            "adopt": self._adopt,
            "run": self._run,
            "result": self._send_result,
            "warm_up": self._warm_up,
            "fuse": self._fuse,
            "tune": self._tune,
            "batch_times": self._batch_times,
            "set_max_batch": self._set_max_batch,
        }

    def serve(self) -> None:
        """Answer calls until the connection is closed; then free the network."""
        show_thread_name()
        try:
            while True:
                message = messages.receive(self._calls)
                messages.send(self._calls, self._answer(message))
                if self._is_fatal:
                    os._exit(1)
        except OSError:
            pass  # it is closed
        finally:
            self._calls.close()
            self._blocks.close()
            self._engine = None
            if self._has_adopted:
                garbage_collection.collect_all()

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Call a method, and return its reply with the state of the engine and the device."""
        method = message.pop("method")
        for number in message.pop("drop"):
            self._blocks.drop(number)
        try:
            reply = self._methods[method](message)
        except Exception as exc:
            if not isinstance(exc, MemoryError | ValueError):
                log.exception("%s on %s failed", method, self._server.device)
            self._is_fatal = type(exc).__name__ in FATAL
            reply = {"error": type(exc).__name__, "message": str(exc)}
        engine = self._engine
        return reply | {
            "out_of_memory": 0 if engine is None else engine.out_of_memory_count,
            "memory": self._measure_memory(),
        }

    def _measure_memory(self) -> tuple[int, int] | None:
        """Return the bytes in use and their limit; None if unknown, or sent less than a second
        ago."""
        now = time.monotonic()
        if self._engine is None or now < self._measured_at + _MEMORY_S:
            return None
        self._measured_at = now
        usage = self._engine.memory
        return None if usage is None else (usage.used, usage.limit)

    # --- methods that are called -----------------------------------------------------------------

    def _load(self, message: dict[str, Any]) -> dict[str, Any]:
        data = self._array(message["weights"]).view(np.uint8)[: message["bytes"]].tobytes()
        config = Config.model_validate_json(message["config"])
        network = build(config, load_tensors(data), "the weights")
        server = self._server
        self._engine = Engine(network, server.device, server.threads, message["max_batch"])
        server.engines[message["number"]] = self._engine
        garbage_collection.freeze()
        return {}

    def _adopt(self, message: dict[str, Any]) -> dict[str, Any]:
        """Keep an engine that was loaded through another connection."""
        self._engine = self._server.engines[message["number"]]
        self._has_adopted = True
        return {}

    def _run(self, message: dict[str, Any]) -> dict[str, Any]:
        engine = self._loaded()
        inputs = {
            name: torch.from_numpy(self._array(place)) for name, place in message["inputs"].items()
        }
        output = engine.run(inputs, message["steps"], message["explain"])
        self._unsent = pack_output(to_arrays(output))
        return self._send_result(message)

    def _send_result(self, message: dict[str, Any]) -> dict[str, Any]:
        """Copy the last output into the caller's block, or reply how many bytes it needs."""
        assert self._unsent is not None
        description, parts = self._unsent
        buffer = self._array(message["result"]).view(np.uint8).data
        needed = sum(len(part) for part in parts)
        if needed > len(buffer):
            return {"needed": needed}
        self._unsent = None
        offset = 0
        for part in parts:
            buffer[offset : offset + len(part)] = part
            offset += len(part)
        return {"output": description}

    def _warm_up(self, message: dict[str, Any]) -> dict[str, Any]:
        self._loaded().warm_up(message["steps"], message["batch_sizes"])
        return {}

    def _fuse(self, message: dict[str, Any]) -> dict[str, Any]:
        """Fuse an engine that another connection has adopted."""
        engine = self._server.engines[message["number"]]
        is_fused = engine.fuse(message["precision"], message["steps"])
        garbage_collection.freeze()
        return {"fused": is_fused, "path": engine.path}

    def _tune(self, message: dict[str, Any]) -> dict[str, Any]:
        """Tune an engine that another connection has adopted."""
        engine = self._server.engines[message["number"]]
        is_tuned = engine.tune(message["budget_s"])
        return {"tuned": is_tuned, "path": engine.path}

    def _batch_times(self, message: dict[str, Any]) -> dict[str, Any]:
        """Time batches of an engine that another connection has adopted."""
        engine = self._server.engines[message["number"]]
        times = engine.batch_times(message["steps"], message["sizes"], message["longest_s"])
        return {"times": list(times.items())}

    def _set_max_batch(self, message: dict[str, Any]) -> dict[str, Any]:
        """Change the maximum of an engine that another connection has adopted."""
        self._server.engines[message["number"]].set_max_batch(message["max_batch"])
        return {}

    def _loaded(self) -> Engine:
        assert self._engine is not None, "nothing is loaded"
        return self._engine

    def _array(self, place: tuple[int, Sequence[int]]) -> Float32Array:
        block, shape = place
        return self._blocks.array(Reference(block, tuple(shape)))
