"""The checkpoints from the side of an HTTP worker: the engine process runs their networks."""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from typing import TYPE_CHECKING

from service.engine_link.blocks import BlockPool
from service.engine_link.board import Row
from service.engine_link.engine_client import EngineClient
from service.engine_link.outputs import unpack_output
from service.engine_link.snapshot import Entry, ServedEntry, Snapshot, parse_card
from service.errors import Error, Problem, out_of_memory
from service.inference.admission import Admission
from service.inference.batch_queue import InferenceResult
from service.inference.in_flight import stopping
from service.inference.loading import LOAD_THREAD, STOPPING
from service.inference.registry import Registry
from service.request_record import request_id
from service.runtime import cores
from service.runtime.daemon_thread import in_thread

if TYPE_CHECKING:
    from model.arrays import Float32Array
    from model.checkpoint import Card

log = logging.getLogger("scmrl.workers")

#: Longest wait for the engine process to reply whether it is ready, in seconds.
_READY_S = 2.0
#: Longest wait for its reply to a heartbeat, in seconds.
_ALIVE_S = 4.0
_UNRESPONSIVE = "The engine process does not respond."

_slot_numbers = count(1)


class RemoteSlot:
    """The slot of one admitted request: see models.Slot."""

    def __init__(self, number: int, client: EngineClient, blocks: BlockPool) -> None:
        self._number = number
        self._client = client
        self._blocks = blocks
        self.decode_wait_s = 0.0

    async def run(
        self, inputs: Mapping[str, Float32Array], steps: int, explain: Collection[str] = ()
    ) -> InferenceResult:
        references, in_use = {}, []
        for name, values in inputs.items():
            try:
                reference, in_block = self._blocks.refer(values)
            except MemoryError as exc:
                log.warning("a clip is refused: %s", exc)
                raise out_of_memory() from exc
            references[name] = (reference.block, reference.shape)
            in_use.append(in_block)  # a block is reused when its array is freed
        while self._blocks.dropped:
            self._client.note("drop", block=self._blocks.dropped.popleft())
        decode_wait_s, self.decode_wait_s = self.decode_wait_s, 0.0  # of the first run alone
        reply = await self._client.call(
            "run",
            slot=self._number,
            inputs=references,
            steps=steps,
            explain=sorted(explain),
            decode_wait_s=decode_wait_s,
            id=request_id.get(),
        )
        del in_use
        output = unpack_output(reply.value["output"], bytes(reply.parts[0]))
        times = reply.value
        return InferenceResult(output, times["batch_size"], times["queue_s"], times["inference_s"])


class RemoteCheckpoint:
    """A checkpoint that the engine process serves: see models.Checkpoint."""

    def __init__(
        self, name: str, entry: ServedEntry, row: Row, client: EngineClient, blocks: BlockPool
    ) -> None:
        self.name = name
        self.card: Card = parse_card(entry.card)
        self.device = entry.device
        self.path = entry.path
        self.column = entry.column
        load = row.board.load(entry.column)
        self._admission = Admission(entry.slots, entry.max_wait_s, entry.always_admit, load)
        self._client = client
        self._blocks = blocks

    @property
    def pressure(self) -> float:
        return self._admission.pressure

    def check_capacity(self) -> None:
        self._admission.check()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[RemoteSlot]:
        number = next(_slot_numbers)
        try:
            await self._client.call("admit", slot=number, column=self.column)
            yield RemoteSlot(number, self._client, self._blocks)
        finally:  # also where this was cancelled while the engine process admitted it
            self._client.note("release", slot=number)


class RemoteRequests:
    """The requests of this worker that are in flight, counted on the board: see InFlight.

    It drains with the service, and alone where its connection to the engine process has ended: the
    board is that of all workers.
    """

    def __init__(
        self, registry: Registry[RemoteCheckpoint], row: Row, client: EngineClient
    ) -> None:
        self._registry = registry
        self._row = row
        self._client = client

    @property
    def is_draining(self) -> bool:
        return self._row.board.is_draining or self._client.is_lost

    @contextmanager
    def request(self, name: str) -> Iterator[RemoteCheckpoint]:
        if self.is_draining:
            raise stopping()
        checkpoint = self._registry.get(name)
        self._row.hold(checkpoint.column, 1)
        try:
            yield checkpoint
        except asyncio.CancelledError:  # by the server, at the end of the grace period
            if self.is_draining:
                self._row.count_cancelled()
            raise
        finally:
            self._row.hold(checkpoint.column, -1)


def _import_answer_modules() -> None:
    """Import the modules that make answers, so that the first request does not wait for them."""
    cores.set_opencv_threads()
    for module in ("model.explain.overlay", "model.calibration"):
        importlib.import_module(module)


class RemoteModels:
    """`Models` of the engine process."""

    def __init__(
        self, default_name: str, row: Row, client: EngineClient, blocks: BlockPool
    ) -> None:
        self.registry: Registry[RemoteCheckpoint] = Registry(default_name)
        self.in_flight = RemoteRequests(self.registry, row, client)
        self._row = row
        self._client = client
        self._blocks = blocks
        self._default_is_ready = asyncio.Event()
        self._applying = asyncio.Lock()
        self._importing: asyncio.Future[None] | None = None

    async def apply(self, snapshot: Snapshot) -> None:
        """Serve the checkpoints of a snapshot of the engine process from now on."""
        async with self._applying:  # in the order in which they arrived
            await self._import()
            entries = [(e.name, e.status, self._checkpoint(e)) for e in snapshot.entries]
            self.registry.mirror(entries)
        if self.registry.find(self.registry.default_name) is not None:
            self._default_is_ready.set()

    async def _import(self) -> None:
        """Import the modules that make answers, once. Until then no snapshot is applied, so all
        checkpoints are `loading`."""
        if self._importing is None:
            self._importing = asyncio.ensure_future(in_thread(LOAD_THREAD, _import_answer_modules))
        await asyncio.shield(self._importing)

    def _checkpoint(self, entry: Entry) -> RemoteCheckpoint | None:
        if entry.served is None:
            return None
        return RemoteCheckpoint(entry.name, entry.served, self._row, self._client, self._blocks)

    def start(self) -> None:
        """Nothing runs in the background: the engine process sends the changes."""

    def stop(self) -> None:
        """Nothing is to be ended: the engine process ends its workers itself."""

    async def load_default(self) -> Card:
        await self._import()
        await self._default_is_ready.wait()
        return self.registry.get(self.registry.default_name).card

    async def load_others(self) -> None:
        """The engine process loads them."""

    async def load(self, name: str) -> None:
        await self._client.call("load", name=name)

    async def unload(self, name: str) -> None:
        await self._client.call("unload", name=name)

    async def not_ready_reason(self) -> str | None:
        if self.in_flight.is_draining:
            return STOPPING
        try:
            async with asyncio.timeout(_READY_S):
                reason: str | None = (await self._client.call("not_ready_reason")).value
        except (TimeoutError, Problem):
            return _UNRESPONSIVE
        return reason

    async def check_alive(self) -> None:
        try:
            async with asyncio.timeout(_ALIVE_S):
                await self._client.call("is_alive")
        except TimeoutError:
            raise Problem(Error.NOT_READY, _UNRESPONSIVE, retry_after_s=5) from None

    async def is_served(self, name: str) -> bool:
        self.registry.get(name)
        try:
            async with asyncio.timeout(_READY_S):
                return bool((await self._client.call("is_served", name=name)).value)
        except TimeoutError:
            return False
