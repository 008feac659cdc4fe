"""What runs together, what does not, and how long it waits."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack

import pytest

from service.errors import Error, Problem
from service.inference.batch_queue import InferenceResult
from service.inference.batching import Batcher
from tests.service.engines import (
    STREAM,
    NumberEngine,
    answered,
    ask,
    behind,
    inputs,
    started,
    until_entered,
)
from tests.service.running_server import wait_until


def test_requests_that_queue_together_run_together() -> None:
    engine = NumberEngine()

    async def scenario(batcher: Batcher) -> list[InferenceResult]:
        blocker = await behind(engine, batcher)
        tasks = [asyncio.create_task(ask(batcher, number)) for number in range(1, 7)]
        await asyncio.sleep(0)
        engine.go.set()
        return await asyncio.gather(blocker, *tasks)

    with started(engine) as batcher:
        answers = asyncio.run(scenario(batcher))
    assert [run.numbers for run in engine.runs] == [(0,), (1, 2, 3, 4), (5, 6)]
    assert [answered(ran) for ran in answers] == list(range(7))
    assert [ran.batch_size for ran in answers] == [1, 4, 4, 4, 4, 2, 2]


def test_further_runs_of_a_request_keep_no_other_waiting() -> None:
    """Each run takes back the announcement that it made, not that of a request being decoded."""
    engine = NumberEngine()

    async def scenario(batcher: Batcher) -> list[int]:
        with batcher.slot() as slot:
            first = await slot.run(inputs(1), 4)
            further = await asyncio.gather(*(slot.run(inputs(n), 4) for n in (2, 3)))
        return [answered(ran) for ran in (first, *further)]

    with started(engine) as batcher:
        assert asyncio.run(scenario(batcher)) == [1, 2, 3]
        assert batcher._queue._decoding == 0


def test_each_request_gets_its_own_share_of_everything() -> None:
    engine = NumberEngine()

    async def scenario(batcher: Batcher) -> list[InferenceResult]:
        blocker = await behind(engine, batcher)
        tasks = [asyncio.create_task(ask(batcher, n, explain=["attention"])) for n in (5, 6, 7)]
        await asyncio.sleep(0)
        engine.go.set()
        await blocker
        return await asyncio.gather(*tasks)

    with started(engine) as batcher:
        answers = asyncio.run(scenario(batcher))
    for number, ran in zip((5, 6, 7), answers, strict=True):
        output = ran.output
        assert output.attention is not None
        spatial = output.attention[STREAM].spatial
        assert spatial is not None
        for share in (output.logits, output.stream_logits[STREAM]):
            assert share.size == 1
            assert share.item() == number
        assert spatial.shape == (1, 1, 1)
        assert spatial.item() == number


def test_requests_of_other_steps_maps_or_shapes_run_apart_and_the_oldest_first() -> None:
    engine = NumberEngine()

    async def scenario(batcher: Batcher) -> None:
        blocker = await behind(engine, batcher)
        tasks = [
            asyncio.create_task(asking)
            for asking in (
                ask(batcher, 1, steps=8),
                ask(batcher, 2),
                ask(batcher, 3, size=2),
                ask(batcher, 4, explain=["attention"]),
                ask(batcher, 5, steps=8),
                ask(batcher, 6),
            )
        ]
        await asyncio.sleep(0)
        engine.go.set()
        await asyncio.gather(blocker, *tasks)

    with started(engine) as batcher:
        asyncio.run(scenario(batcher))
    assert [run.numbers for run in engine.runs] == [(0,), (1, 5), (2, 6), (3,), (4,)]
    assert [run.steps for run in engine.runs] == [4, 8, 4, 4, 4]
    assert engine.runs[-1].explain == {"attention"}


def test_a_lone_request_does_not_wait_for_company() -> None:
    engine = NumberEngine()
    with started(engine, max_wait_s=20) as batcher:
        begun = time.monotonic()
        asyncio.run(ask(batcher, 1))
        assert time.monotonic() - begun < 10


def test_a_request_waits_for_one_that_is_still_being_decoded() -> None:
    engine = NumberEngine()

    async def scenario(batcher: Batcher) -> None:
        with batcher.slot() as decoding:
            first = asyncio.create_task(ask(batcher, 1))
            await asyncio.sleep(0.05)
            assert not engine.runs
            await asyncio.gather(first, decoding.run(inputs(2), 4))

    with started(engine, max_wait_s=20) as batcher:
        asyncio.run(scenario(batcher))
    assert [run.numbers for run in engine.runs] == [(1, 2)]


def test_it_waits_no_longer_for_one_whose_decoding_failed() -> None:
    engine = NumberEngine()

    async def scenario(batcher: Batcher) -> None:
        with pytest.raises(ValueError, match="no clip"), batcher.slot():  # noqa: PT012
            first = asyncio.create_task(ask(batcher, 1))
            await asyncio.sleep(0.05)
            raise ValueError("no clip")
        await first

    with started(engine, max_wait_s=20) as batcher:
        begun = time.monotonic()
        asyncio.run(scenario(batcher))
        assert time.monotonic() - begun < 10


def test_it_waits_no_longer_than_the_setting() -> None:
    engine = NumberEngine()

    async def scenario(batcher: Batcher) -> None:
        with batcher.slot():  # never queues
            assert answered(await asyncio.wait_for(ask(batcher, 1), 10)) == 1

    with started(engine, max_wait_s=0.05) as batcher:
        asyncio.run(scenario(batcher))


def test_a_request_that_waited_for_a_decoding_process_waits_for_a_fuller_batch() -> None:
    engine = NumberEngine()

    async def scenario(batcher: Batcher) -> None:
        with batcher.slot() as waited, batcher.slot() as decoding:
            waited.decode_wait_s = 160
            first = asyncio.create_task(waited.run(inputs(1), 4))
            await asyncio.sleep(0.05)
            assert not engine.runs
            await asyncio.gather(first, decoding.run(inputs(2), 4))

    with started(engine, max_wait_s=0, max_wait_under_load_s=20) as batcher:
        asyncio.run(scenario(batcher))
    assert [run.numbers for run in engine.runs] == [(1, 2)]


@pytest.mark.parametrize(
    ("decode_wait_s", "max_wait_under_load_s"),
    [pytest.param(0.4, 20, id="an eighth"), pytest.param(1000, 0.05, id="the setting")],
)
def test_it_waits_no_longer_than_an_eighth_of_that_time_and_the_setting(
    decode_wait_s: float, max_wait_under_load_s: float
) -> None:
    engine = NumberEngine()

    async def scenario(batcher: Batcher) -> None:
        with batcher.slot() as slot, batcher.slot():  # the second never queues
            slot.decode_wait_s = decode_wait_s
            begun = time.monotonic()
            await asyncio.wait_for(slot.run(inputs(1), 4), 10)
            assert time.monotonic() - begun > 0.04

    with started(engine, max_wait_s=0, max_wait_under_load_s=max_wait_under_load_s) as batcher:
        asyncio.run(scenario(batcher))


def test_a_batch_waits_no_longer_than_each_of_its_requests_may() -> None:
    """Preprocessed tensors have not waited for a process, so clips do not delay them."""
    engine = NumberEngine()

    async def scenario(batcher: Batcher) -> None:
        with batcher.slot() as waited, batcher.slot():
            waited.decode_wait_s = 1000
            first = asyncio.create_task(waited.run(inputs(1), 4))
            await asyncio.sleep(0)
            await asyncio.wait_for(asyncio.gather(first, ask(batcher, 2)), 10)

    with started(engine, max_wait_s=0.05, max_wait_under_load_s=20) as batcher:
        asyncio.run(scenario(batcher))
    assert [run.numbers for run in engine.runs] == [(1, 2)]


def test_requests_of_another_key_do_not_wait_behind_a_batch_that_may_wait_long() -> None:
    engine = NumberEngine()

    async def scenario(batcher: Batcher) -> None:
        with batcher.slot() as waited, batcher.slot():
            waited.decode_wait_s = 1000
            first = asyncio.create_task(waited.run(inputs(1), 4))
            await asyncio.sleep(0)
            await asyncio.wait_for(asyncio.gather(first, ask(batcher, 2, steps=2)), 10)

    with started(engine, max_wait_s=0.05, max_wait_under_load_s=20) as batcher:
        asyncio.run(scenario(batcher))
    assert [run.numbers for run in engine.runs] == [(1,), (2,)]


def test_only_the_first_run_of_a_request_waits_so_long() -> None:
    engine = NumberEngine()

    async def scenario(batcher: Batcher) -> None:
        with batcher.slot() as slot, batcher.slot():
            slot.decode_wait_s = 0.4
            assert (await slot.run(inputs(1), 4)).queue_s > 0.04
            assert slot.decode_wait_s == 0
            await slot.run(inputs(2), 4)

    with started(engine, max_wait_s=0, max_wait_under_load_s=20) as batcher:
        asyncio.run(scenario(batcher))


def test_when_all_slots_are_in_use_requests_are_rejected_until_one_is_free() -> None:
    engine = NumberEngine()

    async def scenario(batcher: Batcher) -> None:
        blocker = await behind(engine, batcher)
        with batcher.slot():
            for refused in (batcher.check_capacity, batcher.slot().__enter__):
                with pytest.raises(Problem) as caught:
                    refused()
                assert caught.value.error is Error.FULL
                assert caught.value.retry_after_s is not None
                assert "2 slots" in caught.value.detail
        assert batcher.in_flight == 1
        engine.go.set()
        await blocker
        assert answered(await ask(batcher, 1)) == 1

    with started(engine, slots=2) as batcher:
        asyncio.run(scenario(batcher))
        assert batcher.in_flight == 0


def test_retry_after_is_as_long_as_the_queue_takes() -> None:
    engine = NumberEngine(before=lambda numbers: time.sleep(0.05))

    async def scenario(batcher: Batcher) -> None:
        with batcher.slot():
            for number in range(6):
                await ask(batcher, number)
            with batcher.slot():
                batcher.check_capacity()

    with started(engine, slots=2) as batcher, pytest.raises(Problem) as caught:
        asyncio.run(scenario(batcher))
    assert caught.value.retry_after_s is not None
    assert 0.1 <= caught.value.retry_after_s < 10, "two requests of 0.05 s or more"


def test_several_devices_share_one_queue() -> None:
    engines = [NumberEngine(max_batch=2), NumberEngine(max_batch=2)]
    batcher = Batcher(engines, max_wait_s=0, slots=100)  # type: ignore[arg-type]

    async def scenario() -> list[InferenceResult]:
        tasks = []
        for engine in engines:  # both are held in a run, so that the rest queues
            engine.go.clear()
        for number in range(2):
            tasks.append(asyncio.create_task(ask(batcher, number, steps=number + 1)))
        for engine in engines:
            await until_entered(engine)
        assert [len(engine.runs) for engine in engines] == [1, 1]
        tasks += [asyncio.create_task(ask(batcher, number)) for number in range(2, 8)]
        await asyncio.sleep(0)
        engines[1].go.set()
        answers = await asyncio.gather(*tasks[2:])
        engines[0].go.set()
        return [*await asyncio.gather(*tasks[:2]), *answers]

    batcher.start()
    try:
        answers = asyncio.run(scenario())
    finally:
        batcher.stop()
    assert [answered(ran) for ran in answers] == list(range(8))
    assert [len(engine.runs) for engine in engines] == [1, 4], "the free device ran the rest"
    assert batcher.not_ready_reason(60)


def test_each_device_has_a_batch_size_of_its_own() -> None:
    small, large = engines = [NumberEngine(max_batch=2), NumberEngine(max_batch=5)]
    batcher = Batcher(engines, max_wait_s=0, slots=100)  # type: ignore[arg-type]

    async def scenario() -> None:
        for engine in engines:  # each is held in a run, so that the rest queues
            engine.go.clear()
        tasks = [asyncio.create_task(ask(batcher, n, steps=n + 1)) for n in range(2)]
        for engine in engines:
            await until_entered(engine)
        tasks += [asyncio.create_task(ask(batcher, number)) for number in range(2, 13)]
        await asyncio.sleep(0)
        assert batcher.queued == 11
        large.go.set()
        await asyncio.to_thread(wait_until, lambda: len(large.runs) == 4)
        small.go.set()
        await asyncio.gather(*tasks)

    batcher.start()
    try:
        asyncio.run(scenario())
    finally:
        batcher.stop()
    assert [len(run.numbers) for run in large.runs] == [1, 5, 5, 1]
    assert [len(run.numbers) for run in small.runs] == [1]


def test_a_larger_batch_is_run_from_the_next_one_on_and_as_many_more_are_admitted() -> None:
    engine = NumberEngine(max_batch=1)

    async def scenario(batcher: Batcher) -> None:
        engine.go.clear()
        tasks = [asyncio.create_task(ask(batcher, number)) for number in range(8)]
        await until_entered(engine)
        assert batcher.admission.always_admit == 2
        batcher.set_max_batch(engine, 3)  # type: ignore[arg-type]
        assert batcher.admission.always_admit == 6
        engine.go.set()
        await asyncio.gather(*tasks)
        batcher.set_max_batch(engine, 30)  # type: ignore[arg-type]
        assert batcher.admission.always_admit == 10, "not more than there are slots"

    with started(engine, slots=10) as batcher:
        asyncio.run(scenario(batcher))
    assert [len(run.numbers) for run in engine.runs] == [1, 3, 3, 1]


def test_the_fuller_batch_that_a_device_waits_for_is_its_own() -> None:
    engine = NumberEngine(max_batch=1)

    async def scenario(batcher: Batcher) -> InferenceResult:
        with batcher.slot():  # is being decoded
            return await asyncio.wait_for(ask(batcher, 1), 10)

    with started(engine, max_wait_s=60) as batcher:
        assert answered(asyncio.run(scenario(batcher))) == 1


def test_as_many_requests_as_two_batches_of_every_device_are_always_admitted() -> None:
    engines = [NumberEngine(max_batch=1), NumberEngine(max_batch=3)]
    batcher = Batcher(
        engines,
        max_wait_s=0,
        slots=100,
        max_estimated_wait_s=1e-9,  # type: ignore[arg-type]
    )

    async def scenario() -> None:
        with batcher.slot():  # held, so that a rate is measured
            for number in range(12):
                await ask(batcher, number)
        with ExitStack() as slots:
            for _ in range(8):
                slots.enter_context(batcher.slot())
            with pytest.raises(Problem, match="8 requests are in flight"):
                batcher.check_capacity()

    batcher.start()
    try:
        asyncio.run(scenario())
    finally:
        batcher.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_device_that_dies_leaves_its_queue_to_the_other() -> None:
    def die(numbers: tuple[int, ...]) -> None:
        raise SystemExit

    dying, living = engines = [NumberEngine(die, 1), NumberEngine(max_batch=1)]
    batcher = Batcher(engines, max_wait_s=0, slots=100)  # type: ignore[arg-type]

    async def scenario() -> list[InferenceResult | BaseException]:
        for engine in engines:  # each is held in a run, so that the rest queues
            engine.go.clear()
        tasks = [asyncio.create_task(ask(batcher, number)) for number in range(6)]
        for engine in engines:
            await until_entered(engine)
        dying.go.set()
        await asyncio.to_thread(wait_until, lambda: not batcher.has_all_workers)
        assert batcher.queued == 4
        living.go.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    batcher.start()
    try:
        answers = asyncio.run(scenario())
        assert batcher.not_ready_reason(60) is None, "the other device answers"
    finally:
        batcher.stop()
    lost = [answer for answer in answers if isinstance(answer, BaseException)]
    assert len(lost) == 1
    assert isinstance(lost[0], Problem)
    assert lost[0].error is Error.NOT_READY
    assert len(living.runs) == 5


def test_a_request_that_is_cancelled_leaves_the_queue_and_is_never_run() -> None:
    engine = NumberEngine()

    async def scenario(batcher: Batcher) -> None:
        blocker = await behind(engine, batcher)
        cancelled, remaining = (asyncio.create_task(ask(batcher, number)) for number in (1, 2))
        await asyncio.sleep(0)
        assert batcher.queued == 2
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert cancelled.cancelled()
        assert batcher.queued == 1
        assert batcher.in_flight == 2
        engine.go.set()
        assert [answered(ran) for ran in await asyncio.gather(blocker, remaining)] == [0, 2]

    with started(engine) as batcher:
        asyncio.run(scenario(batcher))
    assert [run.numbers for run in engine.runs] == [(0,), (2,)]
