"""The interface of checkpoints to the rest of the service, in whichever process they run.

`local.LocalModels` runs them in this process; `service.engine_link` asks another one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from service.inference.batch_queue import InferenceResult
from service.inference.registry import Status

if TYPE_CHECKING:
    from model.arrays import Float32Array
    from model.checkpoint import Card


class Slot(Protocol):
    """The slot of one admitted request, from before its decoding to its answer.

    `decode_wait_s`: seconds that the request has waited for a decoding process, set before the
    first `run`. That run may wait for a fuller batch for up to an eighth of it: see BatchQueue.
    """

    decode_wait_s: float

    async def run(
        self, inputs: Mapping[str, Float32Array], steps: int, explain: Collection[str] = ()
    ) -> InferenceResult:
        """Queue for `steps` time steps on inputs [T or 1, C, H, W] by stream, and wait.

        May be called again, for further runs of the same request. Raises what the engine raised
        for this request, Problem NOT_READY if the worker has stopped. When cancelled, the request
        leaves the queue before inference.
        """
        ...


class Checkpoint(Protocol):
    """A checkpoint that is served. `name` is that of its folder, by which requests select it."""

    @property
    def name(self) -> str: ...

    @property
    def card(self) -> Card: ...

    @property
    def device(self) -> str:
        """Its devices, separated by commas."""
        ...

    @property
    def path(self) -> str | None:
        """The path that computes it; None while its worker is being replaced."""
        ...

    @property
    def pressure(self) -> float:
        """The load, from 0 (nothing in flight) to 1 (requests are rejected)."""
        ...

    def check_capacity(self) -> None:
        """Raise Problem FULL if no slot is free. Call it before an upload is read."""
        ...

    def slot(self) -> AbstractAsyncContextManager[Slot]:
        """Hold a slot for one request until the block ends. Raises Problem FULL."""
        ...


class Checkpoints(Protocol):
    """The checkpoints by name: see Registry."""

    default_name: str

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def ready(self) -> Mapping[str, Checkpoint]: ...

    def status(self, name: str) -> Status: ...

    def find(self, name: str) -> Checkpoint | None: ...

    def get(self, name: str) -> Checkpoint:
        """Raises Problem UNKNOWN_MODEL, NOT_READY or MODEL_FAILED."""
        ...


class Requests(Protocol):
    """The requests in flight: see InFlight."""

    @property
    def is_draining(self) -> bool: ...

    def request(self, name: str) -> AbstractContextManager[Checkpoint]:
        """Hold a checkpoint for one request. Raises Problem as Checkpoints.get does, and
        STOPPING."""
        ...


class Models(Protocol):
    """The checkpoints of a service, from `start` to `stop`."""

    @property
    def registry(self) -> Checkpoints: ...

    @property
    def in_flight(self) -> Requests: ...

    def start(self) -> None:
        """Start what runs in the background."""
        ...

    def stop(self) -> None:
        """Start nothing more, and end all workers after their current batches; blocks."""
        ...

    async def load_default(self) -> Card:
        """Wait until the default checkpoint is served. Raises StartupError, Problem STOPPING."""
        ...

    async def load_others(self) -> None:
        """Wait until the other checkpoints are served, or have failed."""
        ...

    async def load(self, name: str) -> None:
        """Load or reload a checkpoint: see Reloads.load. Raises Problem."""
        ...

    async def unload(self, name: str) -> None:
        """Unload a checkpoint: see Reloads.unload. Raises Problem."""
        ...

    async def not_ready_reason(self) -> str | None:
        """Return why the default checkpoint cannot answer; None if it can."""
        ...

    async def check_alive(self) -> None:
        """Raise Problem NOT_READY where the process that runs the networks does not respond."""
        ...

    async def is_served(self, name: str) -> bool:
        """Return whether a checkpoint can answer. Raises Problem as Checkpoints.get does."""
        ...
