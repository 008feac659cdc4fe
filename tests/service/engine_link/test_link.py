"""Two HTTP workers and the engine process over real sockets and shared memory, in one process."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from model.checkpoint import Card, read_card
from service.engine_link.blocks import BlockPool
from service.engine_link.board import Board
from service.engine_link.channel import Reply
from service.engine_link.engine_client import EngineClient, RemoteRateLimits, RemoteStreamLimits
from service.engine_link.engine_server import EngineServer, SharedCounts
from service.engine_link.remote_models import RemoteModels
from service.engine_link.snapshot import Snapshot
from service.errors import Error, Problem
from service.inference.batching import Batcher
from service.inference.model_server import ModelServer
from service.inference.served_model import ServedModel
from service.keys.key_file import Keys
from service.keys.rate_limit import LocalRateLimits
from service.settings import Settings
from service.streaming.messages import StreamError
from service.streaming.slots import LocalStreamLimits
from tests.service.engines import STREAM, NumberEngine, answered, inputs, until_entered

NAME = "avdigits"


@dataclass
class Linked:
    """The engine's side, and the models, blocks and clients of two workers."""

    board: Board
    models: ModelServer
    server: EngineServer
    card: Card
    remote: list[RemoteModels] = field(default_factory=list)
    blocks: list[BlockPool] = field(default_factory=list)
    clients: list[EngineClient] = field(default_factory=list)
    batchers: list[Batcher] = field(default_factory=list)

    async def publish(self, engine: NumberEngine, slots: int = 100) -> ServedModel:
        engine.path = "plain"  # type: ignore[attr-defined]
        batcher = Batcher(
            [engine],  # type: ignore[list-item]
            max_wait_s=0.0,
            max_wait_under_load_s=20.0,
            slots=slots,
            max_estimated_wait_s=60,
        )
        batcher.admission.load = self.board.make_load()
        batcher.start()
        self.batchers.append(batcher)
        model = ServedModel(NAME, self.card, batcher)
        self.models.registry.publish(model)
        self.server.publish_changes()
        await until(lambda: all(r.registry.find(NAME) is not None for r in self.remote))
        return model


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not happened():
            await asyncio.sleep(0.005)


@asynccontextmanager
async def linked(weights: Path) -> AsyncIterator[Linked]:
    board = Board()
    settings = Settings(models=weights, stream_sessions=2, stream_decoders=1)
    counts = SharedCounts(
        board, lambda: server.columns_in_use(), lambda column: server.retire(column)
    )
    models = ModelServer(settings, in_flight=counts, make_load=board.make_load)
    limits, streams = LocalRateLimits(), LocalStreamLimits(settings)
    server = EngineServer(models, Keys(), limits, streams, {}, settings.stalled_after_s)
    link = Linked(board, models, server, read_card(weights / NAME))
    for number in range(2):
        ours, its = socket.socketpair()
        our_blocks, its_blocks = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        blocks = BlockPool(its_blocks)
        remote: RemoteModels

        async def show(arguments: dict[str, str], number: int = number) -> Reply:
            await link.remote[number].apply(Snapshot.model_validate_json(arguments["snapshot"]))
            return Reply()

        client = EngineClient({"checkpoints": show, "keys": lambda _: None}, lambda: None)
        remote = RemoteModels(NAME, board.row(number), client, blocks)
        link.remote.append(remote)
        link.blocks.append(blocks)
        link.clients.append(client)
        await client.connect(its)
        await server.connect(number, ours, our_blocks, lambda worker: None)
    try:
        yield link
    finally:
        for client in link.clients:
            client.close()
        for batcher in link.batchers:
            await asyncio.to_thread(batcher.stop)


def run(weights: Path, test: Callable[[Linked], Awaitable[None]]) -> None:
    async def within() -> None:
        async with linked(weights) as link:
            await test(link)

    asyncio.run(within())


def test_a_run_is_answered_as_in_one_process_and_its_tensors_are_not_copied(weights: Path) -> None:
    async def test(link: Linked) -> None:
        await link.publish(NumberEngine())
        received = link.blocks[0].allocate((1, 1, 1, 1))
        received[:] = 7.0
        in_block = received.view()
        assert link.blocks[0].refer(in_block)[1] is in_block
        async with link.remote[0].registry.get(NAME).slot() as slot:
            first = await slot.run({STREAM: in_block}, 4, ("attention",))
            second = await slot.run(inputs(8), 2)
        assert (answered(first), answered(second), first.batch_size) == (7, 8, 1)
        assert first.inference_s > 0
        assert first.output.attention is not None
        assert first.output.attention[STREAM].spatial.tolist() == [[[7.0]]]
        assert first.output.attention[STREAM].temporal is None
        assert first.output.token_logits[STREAM].tolist() == [[[[7.0]]]]
        assert second.output.attention is None
        assert first.output.bias.tolist() == [0.0]
        del received, in_block, first
        again = link.blocks[0].allocate((2, 2), "float32")
        other = link.blocks[0].allocate((2, 2), "float32")
        assert not np.shares_memory(again, other)
        assert link.models.in_flight.total == 0

    run(weights, test)


def test_a_request_that_waited_for_a_decoding_process_of_a_worker_waits_for_others(
    weights: Path,
) -> None:
    async def test(link: Linked) -> None:
        await link.publish(NumberEngine())
        first, second = (remote.registry.get(NAME) for remote in link.remote)
        async with first.slot() as waited, second.slot():  # the second never queues
            waited.decode_wait_s = 0.4
            assert (await waited.run(inputs(1), 4)).queue_s > 0.04
            assert waited.decode_wait_s == 0  # further runs wait no longer than others

    run(weights, test)


@contextmanager
def files_of(size: int) -> Iterator[None]:
    """No file, nor memory that is shared as one, is larger than `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_without_memory_to_share_a_run_is_refused_and_the_next_is_answered(weights: Path) -> None:
    async def test(link: Linked) -> None:
        await link.publish(NumberEngine())
        with files_of(1000), pytest.raises(MemoryError, match="File too large"):
            link.blocks[0].allocate((1, 1, 1, 1))
        async with link.remote[0].registry.get(NAME).slot() as slot:
            with files_of(1000), pytest.raises(Problem, match="too little memory") as refused:
                await slot.run(inputs(7), 4)
            assert refused.value.error is Error.FULL
            assert answered(await slot.run(inputs(8), 4)) == 8

    run(weights, test)


def test_slots_are_bounded_over_all_workers(weights: Path) -> None:
    async def test(link: Linked) -> None:
        model = await link.publish(NumberEngine(), slots=1)
        first, second = (each.registry.get(NAME) for each in link.remote)
        async with first.slot():
            with pytest.raises(Problem) as refused:
                second.check_capacity()  # as the board says, without a message
            assert refused.value.error is Error.FULL
            with pytest.raises(Problem, match="All 1 slots") as refused:
                async with second.slot():
                    pass
            assert refused.value.retry_after_s is not None
            assert (second.pressure, model.batcher.in_flight) == (1.0, 1)
        await until(lambda: model.batcher.in_flight == 0)
        async with second.slot() as slot:
            assert answered(await slot.run(inputs(3), 4)) == 3

    run(weights, test)


def test_a_cancelled_request_leaves_the_queue_and_its_slot(weights: Path) -> None:
    async def test(link: Linked) -> None:
        engine = NumberEngine()
        model = await link.publish(engine)

        async def ask(worker: int, number: int) -> int:
            with link.remote[worker].in_flight.request(NAME) as checkpoint:
                async with checkpoint.slot() as slot:
                    return answered(await slot.run(inputs(number), 4))

        engine.go.clear()
        running = asyncio.create_task(ask(0, 1))
        await until_entered(engine)
        cancelled, waiting = asyncio.create_task(ask(0, 2)), asyncio.create_task(ask(1, 3))
        await until(lambda: model.batcher.queued == 2)
        assert link.models.in_flight.total == 3
        cancelled.cancel()
        await until(lambda: model.batcher.queued == 1 and model.batcher.in_flight == 2)
        engine.go.set()
        assert await asyncio.gather(running, waiting) == [1, 3]
        assert [each.numbers for each in engine.runs] == [(1,), (3,)]
        assert link.models.in_flight.total == 0

    run(weights, test)


def test_slots_and_requests_of_a_lost_worker_are_released(weights: Path) -> None:
    async def test(link: Linked) -> None:
        engine = NumberEngine()
        model = await link.publish(engine, slots=2)
        engine.go.clear()
        async with AsyncExitStack() as slots:
            # Another process would be gone, and free nothing itself.
            lost = await slots.enter_async_context(link.remote[0].registry.get(NAME).slot())
            await slots.enter_async_context(RemoteStreamLimits(link.clients[0]).decoder())
            running = asyncio.create_task(lost.run(inputs(1), 4))
            await until_entered(engine)
            link.clients[0].close()
            with pytest.raises(Problem, match="engine process has ended"):
                await running
        await until(lambda: model.batcher.in_flight == 0 and list(link.server.workers) == [1])
        engine.go.set()
        async with link.remote[1].registry.get(NAME).slot() as slot:
            assert answered(await slot.run(inputs(2), 4)) == 2
        async with RemoteStreamLimits(link.clients[1]).decoder():
            pass
        ends = [each.in_flight.is_draining for each in (*link.remote, link.models)]
        assert ends == [True, False, False], "it alone ends"

    run(weights, test)


def test_an_old_checkpoint_is_served_until_no_worker_uses_it(weights: Path) -> None:
    async def test(link: Linked) -> None:
        old = await link.publish(NumberEngine())
        with link.remote[0].in_flight.request(NAME) as request:
            new = await link.publish(NumberEngine())
            await until(lambda: link.models.in_flight.count(old) == 1)
            assert link.models.in_flight.count(new) == 1, "workers may hand it to a request"
            async with request.slot() as slot:
                assert answered(await slot.run(inputs(5), 4)) == 5
        assert link.models.in_flight.count(old) == 0
        link.models.in_flight.forget(old)
        with pytest.raises(Problem) as refused:
            async with request.slot():
                pass
        assert refused.value.error is Error.NOT_READY

    run(weights, test)


def test_rate_limits_and_streams_are_counted_for_all_workers(weights: Path) -> None:
    async def test(link: Linked) -> None:
        first, second = (RemoteRateLimits(client) for client in link.clients)
        assert await first.take("anna", 3) == 0.0
        await second.spend("anna", 3, 2)
        await until(lambda: True)
        assert await second.take("anna", 3) > 10
        assert await first.take("anna", 3) > 10
        one, other = (RemoteStreamLimits(client) for client in link.clients)
        async with one.session("anna"), other.session("bert"):
            with pytest.raises(StreamError, match="2 streams are open"):
                async with one.session(""):
                    pass
        async with other.session("anna"), one.session("anna"):
            pass
        await until(lambda: not any(each.streams for each in link.server.workers.values()))

    run(weights, test)


def test_workers_refuse_requests_while_draining_and_cancelled_ones_count_as_unanswered(
    weights: Path,
) -> None:
    async def test(link: Linked) -> None:
        await link.publish(NumberEngine())

        async def hold() -> None:
            with link.remote[0].in_flight.request(NAME):
                await asyncio.sleep(60)

        holding = asyncio.create_task(hold())
        await until(lambda: link.models.in_flight.total == 1)
        link.models.in_flight.drain()
        with pytest.raises(Problem) as refused, link.remote[1].in_flight.request(NAME):
            pass
        assert refused.value.error is Error.STOPPING
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
        assert (link.models.in_flight.total, link.models.in_flight.unanswered) == (0, 1)

    run(weights, test)
