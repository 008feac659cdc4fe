"""The engine process's side of its connections to HTTP workers: the methods that they call, and the
updates of checkpoints and keys that it sends."""

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
from service.errors import out_of_memory
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

#: Seconds between two checks for changes of the checkpoints of which the registry gives no notice,
#: such as another path.
_POLL_S = 0.5
#: Longest wait for workers to apply a change, in seconds.
_APPLY_S = 5.0
_ADMIN_THREAD = "scmrl-admin"


class SharedCounts:
    """The requests in flight of all workers: see in_flight.Counts.

    `columns_in_use`: returns the columns of checkpoints that a worker may still give to a request.
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

    - `slots`: the slots that it holds, by its number for each, with the stack that releases it.
    - `streams`: the stacks that release the limits of its live streams, by its number for each.
    - `snapshots`: the last one that it has applied, and those sent since.
    """

    number: int
    channel: Channel
    blocks: SharedBlocks
    slots: dict[int, tuple[Slot, ExitStack]] = field(default_factory=dict)
    streams: dict[int, AsyncExitStack] = field(default_factory=dict)
    snapshots: list[Snapshot] = field(default_factory=list)

    @property
    def columns(self) -> frozenset[int]:
        """The columns of the checkpoints that it may give to a request."""
        return frozenset().union(*(snapshot.columns for snapshot in list(self.snapshots)))


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
        self._more_handlers = handlers
        self._stalled_after_s = stalled_after_s
        self._snapshot = Snapshot()
        self._by_column: dict[int, ServedModel] = {}
        self._cards: WeakKeyDictionary[ServedModel, str] = WeakKeyDictionary()
        self._sending: set[asyncio.Task[None]] = set()
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
            name: _bind(handle, number) for name, handle in self._more_handlers.items()
        } | self._handlers(lambda: worker)
        worker = Worker(number, Channel(handlers, lost), SharedBlocks(blocks))
        self.workers = self.workers | {number: worker}
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: worker.channel, sock=control)
        worker.channel.note("keys", **members_of(self._keys))
        self._begin_sending(worker)
        return worker

    def _forget(self, worker: Worker) -> None:
        """Release the slots, limits and blocks of a worker that has ended; its runs have been
        cancelled."""
        if self.workers.get(worker.number) is worker:
            self.workers = {n: w for n, w in self.workers.items() if w is not worker}
        for _, stack in worker.slots.values():
            stack.close()
        worker.slots.clear()
        for number in list(worker.streams):
            freeing = asyncio.ensure_future(self._free_stream(worker, number))
            self._freeing.add(freeing)
            freeing.add_done_callback(self._freeing.discard)
        worker.blocks.close()

    # --- updates to workers ----------------------------------------------------------------------

    def columns_in_use(self) -> frozenset[int]:
        """Return the columns of the checkpoints that a worker may give to a request; from any
        thread."""
        return frozenset().union(*(worker.columns for worker in self.workers.values()))

    def retire(self, column: int) -> None:
        """Admit no request to a checkpoint any more, and drop it; from any thread."""
        self._by_column.pop(column, None)

    async def watch(self) -> None:
        """Send changes of the checkpoints to the workers, until cancelled."""
        while True:
            self.publish_changes()
            await asyncio.sleep(_POLL_S)

    def publish_changes(self) -> None:
        """Send all workers a snapshot of the checkpoints, if it differs from the last one."""
        snapshot = self._make_snapshot()
        if snapshot == self._snapshot:
            return
        self._snapshot = snapshot
        for worker in self.workers.values():
            self._begin_sending(worker)

    def publish_keys(self, keys: Keys) -> None:
        """Send all workers new keys."""
        self._keys = keys
        for worker in self.workers.values():
            worker.channel.note("keys", **members_of(keys))

    async def _wait_until_applied(self) -> None:
        """Wait until every worker has applied its last snapshot, for `_APPLY_S` seconds at most."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=_APPLY_S)

    def _begin_sending(self, worker: Worker) -> None:
        worker.snapshots.append(self._snapshot)
        sending = asyncio.create_task(self._send_snapshot(worker, self._snapshot))
        self._sending.add(sending)
        sending.add_done_callback(self._sending.discard)

    async def _send_snapshot(self, worker: Worker, snapshot: Snapshot) -> None:
        """Send a snapshot and wait until the worker has applied it: it then uses no older one."""
        try:
            await worker.channel.call("checkpoints", snapshot=snapshot.model_dump_json())
        except RemoteFailure as exc:
            log.error("HTTP worker %d cannot serve the checkpoints: %s", worker.number, exc)
            return
        except ChannelLost:
            return
        while worker.snapshots[0] is not snapshot:  # replies come in the order of calls
            worker.snapshots.pop(0)

    def _make_snapshot(self) -> Snapshot:
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

    # --- methods that workers call ---------------------------------------------------------------

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
        stack = ExitStack()
        worker.slots[slot] = (stack.enter_context(model.batcher.slot()), stack)

    def _release(self, worker: Worker, slot: int) -> None:
        _, stack = worker.slots.pop(slot, (None, None))
        if stack is not None:  # None: it was refused
            stack.close()

    async def _run(
        self,
        worker: Worker,
        slot: int,
        inputs: dict[str, tuple[int, tuple[int, ...]]],
        steps: int,
        explain: list[str],
        decode_wait_s: float,
        id: str | None,
    ) -> Reply:
        request_id.set(id)  # of the task, for the log
        try:
            arrays = {
                name: worker.blocks.array(Reference(block, tuple(shape)))
                for name, (block, shape) in inputs.items()
            }
        except MemoryError as exc:
            raise out_of_memory() from exc
        held_slot = worker.slots[slot][0]
        held_slot.decode_wait_s = decode_wait_s
        result = await held_slot.run(arrays, steps, explain)
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
        """Acquire a limit of live streams. Reply with nothing, or with the code and reason of the
        StreamError where it is exceeded."""
        limits = self._stream_limits
        stack = AsyncExitStack()
        try:
            await stack.enter_async_context(
                limits.session(key) if kind == "session" else limits.decoder()
            )
        except StreamError as exc:
            return Reply((exc.code, exc.reason))
        worker.streams[number] = stack
        return Reply()

    async def _free_stream(self, worker: Worker, number: int) -> Reply:
        stack = worker.streams.pop(number, None)
        if stack is not None:
            await stack.aclose()
        return Reply()

    async def _take(self, name: str, per_minute: int) -> Reply:
        return Reply(await self._limits.take(name, per_minute))

    async def _spend(self, name: str, per_minute: int, amount: int) -> Reply:
        await self._limits.spend(name, per_minute, amount)
        return Reply()

    async def _load(self, name: str) -> Reply:
        await in_thread(_ADMIN_THREAD, lambda: self._models.reloads.load(name))
        return await self._publish_and_wait()

    async def _unload(self, name: str) -> Reply:
        await in_thread(_ADMIN_THREAD, lambda: self._models.reloads.unload(name))
        return await self._publish_and_wait()

    async def _publish_and_wait(self) -> Reply:
        """Publish the change that has just been made; return once every worker has applied it."""
        self.publish_changes()
        await self._wait_until_applied()
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
