"""Every request gets a result or an error, whichever are cancelled and whatever fails."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from service.errors import Error, Problem
from service.inference import supervisor
from service.inference.batch_queue import InferenceResult
from service.inference.batching import Batcher
from tests.service.engines import (
    NumberEngine,
    answered,
    ask,
    behind,
    inputs,
    replace_lost_workers,
    started,
    until_entered,
)
from tests.service.running_server import wait_until


def test_a_cancelled_request_is_not_run_and_its_mates_are() -> None:
    engine = NumberEngine()

    async def scenario(batcher: Batcher) -> list[InferenceResult]:
        blocker = await behind(engine, batcher)
        tasks = [asyncio.create_task(ask(batcher, number)) for number in (1, 2, 3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        assert tasks[1].cancelled()
        assert batcher.in_flight == 3
        engine.go.set()
        return [await blocker, await tasks[0], await tasks[2]]

    with started(engine) as batcher:
        answers = asyncio.run(scenario(batcher))
    assert [answered(ran) for ran in answers] == [0, 1, 3]
    assert [run.numbers for run in engine.runs] == [(0,), (1, 3)]


def test_one_that_is_cancelled_while_it_runs_leaves_its_mates_alone() -> None:
    engine = NumberEngine()
    engine.go.clear()

    async def scenario(batcher: Batcher) -> InferenceResult:
        with batcher.slot():  # both queue before either runs
            tasks = [asyncio.create_task(ask(batcher, number)) for number in (1, 2)]
            await asyncio.sleep(0.01)
        await until_entered(engine)
        assert engine.runs[0].numbers == (1, 2)
        tasks[0].cancel()
        await asyncio.wait([tasks[0]])
        assert batcher.in_flight == 1
        engine.go.set()
        return await tasks[1]

    with started(engine, max_wait_s=20) as batcher:
        assert answered(asyncio.run(scenario(batcher))) == 2
        assert batcher.in_flight == 0


class Poisoned(RuntimeError):
    """Error of the engine for a number in `poison`."""


def die(numbers: tuple[int, ...]) -> None:
    """End the worker's thread."""
    raise SystemExit


def refuse(poison: set[int]) -> NumberEngine:
    def before(numbers: tuple[int, ...]) -> None:
        if bad := sorted(poison.intersection(numbers)):
            raise Poisoned(str(bad[0]))

    return NumberEngine(before)


def test_in_a_batch_that_fails_only_the_one_to_blame_gets_the_error() -> None:
    engine = refuse({2})

    async def scenario(batcher: Batcher) -> list[InferenceResult | BaseException]:
        blocker = await behind(engine, batcher)
        tasks = [asyncio.create_task(ask(batcher, number)) for number in (1, 2, 3)]
        await asyncio.sleep(0)
        engine.go.set()
        await blocker
        return await asyncio.gather(*tasks, return_exceptions=True)

    with started(engine) as batcher:
        one, two, three = asyncio.run(scenario(batcher))
        assert isinstance(two, Poisoned)
        for ran, number in ((one, 1), (three, 3)):
            assert isinstance(ran, InferenceResult)
            assert (answered(ran), ran.batch_size) == (number, 1)
        assert answered(asyncio.run(ask(batcher, 4))) == 4, "the batcher works after a failure"


@pytest.mark.parametrize("seed", range(6))
def test_no_request_is_lost_whichever_are_cancelled_or_fail(seed: int) -> None:
    """Requests come, are cancelled and poison their batches at random moments."""
    random_ = random.Random(seed)
    count = 150
    poison = set(random_.sample(range(count), 12))
    slow = random.Random(seed + 1000)

    def before(numbers: tuple[int, ...]) -> None:
        time.sleep(slow.uniform(0, 0.002))
        if bad := sorted(poison.intersection(numbers)):
            raise Poisoned(str(bad[0]))

    engine = NumberEngine(before, max_batch=8)

    async def one(batcher: Batcher, number: int) -> str:
        await asyncio.sleep(random_.uniform(0, 0.1))
        with batcher.slot() as slot:
            await asyncio.sleep(random_.uniform(0, 0.002))  # decodes
            steps = random_.choice([1, 4])
            try:
                return f"answer {answered(await slot.run(inputs(number), steps))}"
            except Poisoned as exc:
                return f"poison {exc}"

    async def scenario(batcher: Batcher) -> None:
        tasks = [asyncio.create_task(one(batcher, number)) for number in range(count)]
        goers = random_.sample(range(count), 40)
        for goer in goers:
            delay = random_.uniform(0, 0.12)
            asyncio.get_running_loop().call_later(delay, tasks[goer].cancel)
        _, pending = await asyncio.wait(tasks, timeout=30)
        assert not pending, f"{len(pending)} requests were left waiting"
        for number, task in enumerate(tasks):
            if task.cancelled():
                assert number in goers
            else:
                kind = "poison" if number in poison else "answer"
                assert task.result() == f"{kind} {number}", "a mate's"

    with started(engine, max_wait_s=0.001) as batcher:
        asyncio.run(scenario(batcher))
        assert batcher.in_flight == 0
        assert answered(asyncio.run(ask(batcher, count))) == count
    assert max(len(run.numbers) for run in engine.runs) > 1


@pytest.mark.parametrize("seed", range(3))
def test_no_request_is_lost_where_the_engine_fails_at_random(seed: int) -> None:
    chance = random.Random(seed)

    def before(numbers: tuple[int, ...]) -> None:
        if chance.random() < 0.2:
            raise RuntimeError("out of luck")

    engine = NumberEngine(before)

    async def scenario(batcher: Batcher) -> list[InferenceResult | BaseException]:
        tasks = [asyncio.create_task(ask(batcher, number)) for number in range(60)]
        await asyncio.wait(tasks, timeout=30)
        return await asyncio.gather(*tasks, return_exceptions=True)

    with started(engine) as batcher:
        outcomes = asyncio.run(scenario(batcher))
        assert batcher.in_flight == 0
        assert batcher.not_ready_reason(60) is None
    for number, outcome in enumerate(outcomes):
        if isinstance(outcome, InferenceResult):
            assert answered(outcome) == number
        else:
            assert str(outcome) == "out of luck"
    assert any(isinstance(outcome, InferenceResult) for outcome in outcomes)


def test_stopping_answers_what_runs_and_refuses_what_queues() -> None:
    engine = NumberEngine()

    async def scenario(
        batcher: Batcher,
    ) -> tuple[InferenceResult, list[InferenceResult | BaseException]]:
        running = await behind(engine, batcher)
        queued = [asyncio.create_task(ask(batcher, number)) for number in (1, 2)]
        await asyncio.sleep(0)
        stopping = threading.Thread(target=batcher.stop)
        stopping.start()
        await asyncio.sleep(0.05)
        engine.go.set()
        outcomes = await asyncio.gather(*queued, return_exceptions=True)
        await asyncio.to_thread(stopping.join)
        with pytest.raises(Problem):
            await ask(batcher, 3)
        return await running, outcomes

    with started(engine) as batcher:
        ran, refused = asyncio.run(scenario(batcher))
        assert batcher.not_ready_reason(60)
        assert batcher.in_flight == 0
    assert answered(ran) == 0
    for problem in refused:
        assert isinstance(problem, Problem)
        assert problem.error is Error.NOT_READY


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_requests_of_a_worker_that_dies_get_an_error() -> None:
    engine = NumberEngine(before=die)

    async def scenario(batcher: Batcher) -> list[InferenceResult | BaseException]:
        running = await behind(engine, batcher)
        queued = [asyncio.create_task(ask(batcher, number)) for number in (1, 2)]
        await asyncio.sleep(0)
        engine.go.set()
        await asyncio.wait([running, *queued], timeout=30)
        return await asyncio.gather(running, *queued, return_exceptions=True)

    with started(engine) as batcher:
        outcomes = asyncio.run(scenario(batcher))
        wait_until(lambda: batcher.not_ready_reason(60) is not None)
    assert [type(outcome) for outcome in outcomes] == [Problem] * 3


def test_a_loop_that_has_closed_does_not_end_the_worker() -> None:
    engine = NumberEngine()

    async def leave(batcher: Batcher) -> None:
        (await behind(engine, batcher)).cancel()

    with started(engine) as batcher:
        asyncio.run(leave(batcher))
        engine.go.set()
        assert answered(asyncio.run(ask(batcher, 1))) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_died_is_replaced() -> None:
    engine = NumberEngine(before=die)
    with started(engine) as batcher:
        with pytest.raises(Problem):
            asyncio.run(ask(batcher, 1))
        wait_until(lambda: batcher.not_ready_reason(60) is not None)
        replace_lost_workers(batcher)
        assert batcher.not_ready_reason(60) is None
        assert batcher.restarts == 1
        assert answered(asyncio.run(ask(batcher, 2))) == 2
        assert engine.successor.runs[0].numbers == (2,)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_successor_has_the_batch_size_of_its_device() -> None:
    engine = NumberEngine(before=die, max_batch=3)

    async def scenario(batcher: Batcher) -> None:
        blocker = await behind(engine.successor, batcher)
        tasks = [asyncio.create_task(ask(batcher, number)) for number in range(1, 5)]
        await asyncio.sleep(0)
        engine.successor.go.set()
        await asyncio.gather(blocker, *tasks)

    with started(engine) as batcher:
        with pytest.raises(Problem):
            asyncio.run(ask(batcher, 1))
        wait_until(lambda: batcher.not_ready_reason(60) is not None)
        replace_lost_workers(batcher)
        asyncio.run(scenario(batcher))
    assert [run.numbers for run in engine.successor.runs] == [(0,), (1, 2, 3), (4,)]


def test_a_worker_that_hangs_is_replaced_and_its_batch_refused() -> None:
    engine = NumberEngine()

    async def scenario(
        batcher: Batcher,
    ) -> tuple[list[InferenceResult | BaseException], InferenceResult]:
        hanging = await behind(engine, batcher)
        queued = asyncio.create_task(ask(batcher, 1))
        await asyncio.sleep(0.05)
        replace_lost_workers(batcher)
        assert batcher.restarts == 0, "it is slow, and not lost"
        replace_lost_workers(batcher, 0.01)
        refused = await asyncio.gather(hanging, return_exceptions=True)
        return refused, await queued

    with started(engine) as batcher:
        (refused,), ran = asyncio.run(scenario(batcher))
        assert isinstance(refused, Problem)
        assert refused.error is Error.NOT_READY
        assert answered(ran) == 1
        assert (batcher.not_ready_reason(60), batcher.restarts, batcher.in_flight) == (None, 1, 0)
        engine.go.set()  # the one that hung comes back, finds itself replaced and ends
        assert answered(asyncio.run(ask(batcher, 2))) == 2
        assert [run.numbers for run in engine.runs] == [(0,)]


def test_a_lost_device_is_reported_as_a_fatal_error() -> None:
    class AcceleratorError(RuntimeError):
        """Named as torch's error of a failed CUDA kernel."""

    def fail(numbers: tuple[int, ...]) -> None:
        raise AcceleratorError("CUDA error: an illegal memory access was encountered")

    errors: list[Exception] = []
    engine = NumberEngine(before=fail)
    with started(engine, on_fatal=errors.append) as batcher, pytest.raises(Problem) as caught:
        asyncio.run(ask(batcher, 1))
    assert caught.value.error is Error.NOT_READY, "another instance can answer it"
    assert "illegal memory access" in str(errors[0])
    assert len(engine.runs) == 1, "it was asked again"


def test_a_lone_request_is_run_again_where_it_fails_once() -> None:
    errors = [RuntimeError("once")]

    def before(numbers: tuple[int, ...]) -> None:
        if errors:
            raise errors.pop()

    engine = NumberEngine(before)
    with started(engine) as batcher:
        assert answered(asyncio.run(ask(batcher, 1))) == 1
        assert batcher.failures == 1
    assert [run.numbers for run in engine.runs] == [(1,), (1,)]


def test_a_request_beyond_the_devices_memory_gets_that_error() -> None:
    def fail(numbers: tuple[int, ...]) -> None:
        raise MemoryError("cuda does not have enough memory for one sample")

    with started(NumberEngine(fail)) as batcher:
        for _ in range(20):
            with pytest.raises(Problem) as caught:
                asyncio.run(ask(batcher, 1))
            assert caught.value.error is Error.FULL
        assert batcher.not_ready_reason(60) is None, "others may need less"


def test_a_device_that_fails_at_everything_is_replaced_by_one_that_does_not() -> None:
    engine = refuse(set(range(100)))
    with started(engine) as batcher:
        for number in range(8):
            with pytest.raises(Poisoned):
                asyncio.run(ask(batcher, number))
        wait_until(lambda: batcher.not_ready_reason(60) is not None)
        assert "8 requests" in str(batcher.not_ready_reason(60))
        replace_lost_workers(batcher)
        assert (batcher.not_ready_reason(60), batcher.restarts) == (None, 1)
        assert answered(asyncio.run(ask(batcher, 1))) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_cannot_be_replaced_at_once_is_replaced_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> NumberEngine:
        raise Poisoned("still")

    engine = NumberEngine(before=die)
    with started(engine) as batcher:
        with pytest.raises(Problem):
            asyncio.run(ask(batcher, 1))
        wait_until(lambda: batcher.not_ready_reason(60) is not None)
        monkeypatch.setattr(engine, "renew", fail)
        for _ in range(2):
            with pytest.raises(Poisoned):
                replace_lost_workers(batcher)
            assert "is being replaced" in str(batcher.not_ready_reason(60))
        monkeypatch.undo()
        replace_lost_workers(batcher)
        assert (batcher.not_ready_reason(60), batcher.restarts) == (None, 1)
        assert answered(asyncio.run(ask(batcher, 2))) == 2


@contextmanager
def lost(*engines: NumberEngine) -> Iterator[Batcher]:
    """A batcher all of whose workers have died."""
    batcher = Batcher(engines, max_wait_s=0, slots=10)  # type: ignore[arg-type]
    batcher.start()

    async def scenario() -> None:
        await asyncio.gather(*(ask(batcher, n) for n in range(4)), return_exceptions=True)

    try:
        asyncio.run(scenario())
        wait_until(lambda: batcher.not_ready_reason(60) is not None)
        yield batcher
    finally:
        batcher.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_device_that_cannot_be_replaced_does_not_delay_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> NumberEngine:
        raise Poisoned("still")

    first, second = NumberEngine(die, 1), NumberEngine(die, 1)
    with lost(first, second) as batcher:
        monkeypatch.setattr(first, "renew", fail)
        with pytest.raises(Poisoned):
            replace_lost_workers(batcher)
        assert batcher.engines == [second.successor]
        assert (batcher.not_ready_reason(60), batcher.has_all_workers) == (None, False)
        assert answered(asyncio.run(ask(batcher, 5))) == 5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_replacement_that_hangs_delays_no_other_device(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    renewals: list[NumberEngine] = []

    def hang() -> NumberEngine:
        renewals.append(NumberEngine(max_batch=1))
        assert go.wait(30)
        return renewals[-1]

    first, second = engines = [NumberEngine(die, 1), NumberEngine(max_batch=1)]
    batcher = Batcher(engines, max_wait_s=0, slots=10)  # type: ignore[arg-type]
    batcher.start()
    monkeypatch.setattr(first, "renew", hang)
    second.go.clear()

    async def lose(count: int) -> None:
        tasks = [asyncio.create_task(ask(batcher, number)) for number in range(count)]
        await asyncio.wait(tasks, return_when="FIRST_EXCEPTION")
        second.go.set()
        await asyncio.gather(*tasks, return_exceptions=True)

    try:
        asyncio.run(lose(2))
        wait_until(lambda: not batcher.has_all_workers)
        replace_lost_workers(batcher)
        second._before = die
        asyncio.run(lose(1))
        wait_until(lambda: batcher.not_ready_reason(60) is not None)
        wait_until(lambda: (replace_lost_workers(batcher), bool(batcher.engines))[1])
        assert (batcher.engines, len(renewals)) == ([second.successor], 1)
        go.set()
        wait_until(lambda: (replace_lost_workers(batcher), batcher.has_all_workers)[1])
        assert batcher.engines == [second.successor, renewals[0]]
        assert batcher.restarts == 2
    finally:
        go.set()
        batcher.stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_where_even_the_replacement_hangs_the_device_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hang() -> NumberEngine:
        wait_until(lambda: bool(errors))
        raise Poisoned("too late")

    errors: list[Exception] = []
    monkeypatch.setattr(supervisor, "_REPLACE_S", 0.05)
    engine = NumberEngine(before=die)
    with started(engine, on_fatal=errors.append) as batcher:
        with pytest.raises(Problem):
            asyncio.run(ask(batcher, 1))
        wait_until(lambda: batcher.not_ready_reason(60) is not None)
        monkeypatch.setattr(engine, "renew", hang)
        with pytest.raises(Poisoned):
            replace_lost_workers(batcher)
    assert "has not been replaced" in str(errors[0])
