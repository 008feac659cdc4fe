"""The engine process from its own side: what HTTP workers call, and what they are told."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from service.engine_link.blocks import Reference, SharedBlocks
from service.engine_link.board import Board, SharedLoad
from service.engine_link.channel import Channel, ChannelLost, Handler, RemoteFailure, Reply
from service.engine_link.key_members import members_of
from service.engine_link.outputs import pack_output
from service.engine_link.snapshot import Entry, ServedEntry, Snapshot
from service.inference.batch_queue import not_served
from service.inference.batching import Slot
from service.inference.model_server import ModelServer
from service.inference.served_model import ServedModel
from service.keys.key_file import Keys
from service.keys.rate_limit import RateLimits
from service.request_record import request_id
from service.runtime.daemon_thread import in_thread
from service.streaming.messages import StreamError
from service.streaming.slots import StreamLimits

log = logging.getLogger("scmrl.workers")

#: Seconds between two looks for changes of the checkpoints that nothing tells.
_LOOK_S = 0.5
#: Longest wait for workers to take over a change, in seconds.
_TAKE_OVER_S = 5.0
_ADMIN_THREAD = "scmrl-admin"


class SharedCounts:
    """The requests in flight of all workers: see in_flight.Counts.

    `columns_in_use`: returns those of the checkpoints that a worker may still hand to a request.
    `on_retired`: called with the column of a checkpoint that is not served any more.
    """

    def __init__(
        self,
        board: Board,
        columns_in_use: Callable[[], frozenset[int]],
        on_retired: Callable[[int], None],
    ) -> None:
        self._board = board
        self._columns_in_use = columns_in_use
        self._on_retired = on_retired

    def drain(self) -> None:
        self._board.begin_draining()

    @property
    def is_draining(self) -> bool:
        return self._board.is_draining

    @property
    def total(self) -> int:
        return self._board.total_holds

    @property
    def unanswered(self) -> int:
        return self.total + self._board.cancelled

    def count(self, model: ServedModel) -> int:
        """Return the requests of a checkpoint; at least 1 while a worker still lists it."""
        column = _load(model).column
        return self._board.holds(column) + (column in self._columns_in_use())

    def forget(self, model: ServedModel) -> None:
        self._on_retired(_load(model).column)


@dataclass(frozen=True)
class Worker:
    """An HTTP worker that is connected.

    - `slots`: those that it holds, by its numbers, each with what frees it.
    - `streams`: what its live streams hold, by its numbers.
    - `told`: the checkpoints as it has taken them over, and as it is being told since.
    """

    number: int
    channel: Channel
    blocks: SharedBlocks
    slots: dict[int, tuple[Slot, ExitStack]] = field(default_factory=dict)
    streams: dict[int, AsyncExitStack] = field(default_factory=dict)
    told: list[Snapshot] = field(default_factory=list)

    @property
    def columns(self) -> frozenset[int]:
        """The columns of the checkpoints that it may hand to a request."""
        return frozenset().union(*(snapshot.columns for snapshot in list(self.told)))


class EngineServer:
    """Serves the HTTP workers that are connected. Used by the event loop alone, but for
    `columns_in_use`.

    `handlers`: of further methods, by name; each gets the number of the worker.
    """

    def __init__(
        self,
        models: ModelServer,
        keys: Keys,
        limits: RateLimits,
        stream_limits: StreamLimits,
        handlers: Mapping[str, Callable[[int, dict[str, Any]], Reply | Awaitable[Reply] | None]],
        stalled_after_s: float,
    ) -> None:
        self.workers: dict[int, Worker] = {}
        self._models = models
        self._keys = keys
        self._limits = limits
        self._stream_limits = stream_limits
        self._further = handlers
        self._stalled_after_s = stalled_after_s
        self._snapshot = Snapshot()
        self._by_column: dict[int, ServedModel] = {}
        self._cards: WeakKeyDictionary[ServedModel, str] = WeakKeyDictionary()
        self._telling: set[asyncio.Task[None]] = set()
        self._freeing: set[asyncio.Task[Reply]] = set()

    # --- workers ---------------------------------------------------------------------------------

    async def connect(
        self,
        number: int,
        control: socket.socket,
        blocks: socket.socket,
        on_lost: Callable[[Worker], None],
    ) -> Worker:
        """Serve a worker on connected sockets. `on_lost` is called when it has ended."""
        worker: Worker

        def lost() -> None:
            self._forget(worker)
            on_lost(worker)

        handlers = {
            name: _bind(handle, number) for name, handle in self._further.items()
        } | self._handlers(lambda: worker)
        worker = Worker(number, Channel(handlers, lost), SharedBlocks(blocks))
        self.workers = self.workers | {number: worker}
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: worker.channel, sock=control)
        worker.channel.note("keys", **members_of(self._keys))
        self._tell(worker)
        return worker

    def _forget(self, worker: Worker) -> None:
        """Free what a worker that has ended held; its runs have been cancelled."""
        if self.workers.get(worker.number) is worker:
            self.workers = {n: w for n, w in self.workers.items() if w is not worker}
        for _, held in worker.slots.values():
            held.close()
        worker.slots.clear()
        for number in list(worker.streams):
            freeing = asyncio.ensure_future(self._free_stream(worker, number))
            self._freeing.add(freeing)
            freeing.add_done_callback(self._freeing.discard)
        worker.blocks.close()

    # --- what workers are told -------------------------------------------------------------------

    def columns_in_use(self) -> frozenset[int]:
        """Return the columns of the checkpoints that a worker may hand to a request; from any
        thread."""
        return frozenset().union(*(worker.columns for worker in self.workers.values()))

    def retire(self, column: int) -> None:
        """Admit no request to a checkpoint any more, and drop it; from any thread."""
        self._by_column.pop(column, None)

    async def watch(self) -> None:
        """Tell workers what changes, until cancelled."""
        while True:
            self.show_changes()
            await asyncio.sleep(_LOOK_S)

    def show_changes(self) -> None:
        """Tell all workers of the checkpoints, where they have changed."""
        snapshot = self._look()
        if snapshot == self._snapshot:
            return
        self._snapshot = snapshot
        for worker in self.workers.values():
            self._tell(worker)

    def show_keys(self, keys: Keys) -> None:
        """Tell all workers of new keys."""
        self._keys = keys
        for worker in self.workers.values():
            worker.channel.note("keys", **members_of(keys))

    async def _all_told(self) -> None:
        """Wait until every worker has taken over what it was told, for some seconds at most."""
        if self._telling:
            await asyncio.wait(self._telling, timeout=_TAKE_OVER_S)

    def _tell(self, worker: Worker) -> None:
        worker.told.append(self._snapshot)
        telling = asyncio.create_task(self._tell_and_wait(worker, self._snapshot))
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    async def _tell_and_wait(self, worker: Worker, snapshot: Snapshot) -> None:
        """Tell a worker; once it has taken that over, it hands out nothing older."""
        try:
            await worker.channel.call("checkpoints", snapshot=snapshot.model_dump_json())
        except RemoteFailure as exc:
            log.error("HTTP worker %d cannot serve the checkpoints: %s", worker.number, exc)
            return
        except ChannelLost:
            return
        while worker.told[0] is not snapshot:  # replies come in the order of calls
            worker.told.pop(0)

    def _look(self) -> Snapshot:
        registry = self._models.registry
        ready = registry.ready
        self._by_column.update((_load(model).column, model) for model in ready.values())
        return Snapshot(
            entries=tuple(
                Entry(
                    name=name,
                    status=registry.status(name),
                    served=self._entry(ready[name]) if name in ready else None,
                )
                for name in registry.names
            )
        )

    def _entry(self, model: ServedModel) -> ServedEntry:
        card = self._cards.get(model)
        if card is None:
            card = self._cards[model] = model.card.model_dump_json()
        admission = model.batcher.admission
        return ServedEntry(
            column=_load(model).column,
            card=card,
            device=model.device,
            path=model.path,
            slots=admission.slots,
            max_wait_s=admission.max_wait_s,
            always_admit=admission.always_admit,
        )

    # --- what workers call -----------------------------------------------------------------------

    def _handlers(self, worker: Callable[[], Worker]) -> dict[str, Handler]:
        return {
            "admit": lambda arguments: self._admit(worker(), **arguments),
            "release": lambda arguments: self._release(worker(), **arguments),
            "run": lambda arguments: self._run(worker(), **arguments),
            "drop": lambda arguments: worker().blocks.drop(arguments["block"]),
            "hold_stream": lambda arguments: self._hold_stream(worker(), **arguments),
            "free_stream": lambda arguments: self._free_stream(worker(), **arguments),
            "take": lambda arguments: self._take(**arguments),
            "spend": lambda arguments: self._spend(**arguments),
            "load": lambda arguments: self._load(**arguments),
            "unload": lambda arguments: self._unload(**arguments),
            "is_alive": lambda arguments: None,
            "is_served": lambda arguments: self._is_served(**arguments),
        }

    def _admit(self, worker: Worker, slot: int, column: int) -> None:
        """Raises Problem FULL, and NOT_READY for a checkpoint that has been retired."""
        model = self._by_column.get(column)
        if model is None:
            raise not_served()
        held = ExitStack()
        worker.slots[slot] = (held.enter_context(model.batcher.slot()), held)

    def _release(self, worker: Worker, slot: int) -> None:
        _, held = worker.slots.pop(slot, (None, None))
        if held is not None:  # None: it was refused
            held.close()

    async def _run(
        self,
        worker: Worker,
        slot: int,
        inputs: dict[str, tuple[int, tuple[int, ...]]],
        steps: int,
        explain: list[str],
        id: str | None,
    ) -> Reply:
        request_id.set(id)  # of the task, for the log
        arrays = {
            name: worker.blocks.array(Reference(block, tuple(shape)))
            for name, (block, shape) in inputs.items()
        }
        result = await worker.slots[slot][0].run(arrays, steps, explain)
        description, parts = pack_output(result.output)
        return Reply(
            {
                "output": description,
                "batch_size": result.batch_size,
                "queue_s": result.queue_s,
                "inference_s": result.inference_s,
            },
            parts,
        )

    async def _hold_stream(self, worker: Worker, number: int, kind: str, key: str) -> Reply:
        """Reply with the code and reason of a StreamError, with nothing where it is held."""
        limits = self._stream_limits
        held = AsyncExitStack()
        try:
            await held.enter_async_context(
                limits.session(key) if kind == "session" else limits.decoder()
            )
        except StreamError as exc:
            return Reply((exc.code, exc.reason))
        worker.streams[number] = held
        return Reply()

    async def _free_stream(self, worker: Worker, number: int) -> Reply:
        held = worker.streams.pop(number, None)
        if held is not None:
            await held.aclose()
        return Reply()

    async def _take(self, name: str, per_minute: int) -> Reply:
        return Reply(await self._limits.take(name, per_minute))

    async def _spend(self, name: str, per_minute: int, amount: int) -> Reply:
        await self._limits.spend(name, per_minute, amount)
        return Reply()

    async def _load(self, name: str) -> Reply:
        await in_thread(_ADMIN_THREAD, self._models.reloads.begin_load(name))
        return await self._told()

    async def _unload(self, name: str) -> Reply:
        await in_thread(_ADMIN_THREAD, self._models.reloads.begin_unload(name))
        return await self._told()

    async def _told(self) -> Reply:
        """Return once every worker knows of the change that has just been made."""
        self.show_changes()
        await self._all_told()
        return Reply()

    def _is_served(self, name: str) -> Reply:
        batcher = self._models.registry.get(name).batcher
        return Reply(batcher.not_ready_reason(self._stalled_after_s) is None)


def _load(model: ServedModel) -> SharedLoad:
    load = model.batcher.admission.load
    assert isinstance(load, SharedLoad)
    return load


def _bind(
    handle: Callable[[int, dict[str, Any]], Reply | Awaitable[Reply] | None], number: int
) -> Handler:
    return lambda arguments: handle(number, arguments)
