"""Networks in processes of two devices, both of them this machine's CPU: real processes."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.engine import Engine
from model.engine.inputs import stack_clips
from model.engine.outputs import to_arrays
from model.network import Output
from service.bench import devices as bench_devices
from service.bench.tensors import make_clips
from service.device_link import device, process
from service.device_link.connection import DeviceLost
from service.device_link.devices import Devices
from service.device_link.engine import DeviceEngine, DeviceFailure
from service.device_link.process import ProcessOptions
from service.errors import Error, Problem
from service.inference.batch_queue import InferenceResult
from service.inference.batching import Batcher
from service.inference.model_server import ModelServer
from service.settings import Settings
from tests.conftest import ROOT
from tests.model.networks import lively, noise
from tests.service.checkpoints import CONFIG, STEPS
from tests.service.engines import replace_lost_workers
from tests.service.running_server import wait_until

pytestmark = pytest.mark.slow

OPTIONS = ProcessOptions(1, "info", "console")
NAMES = ["cpu", "cpu"]
#: Seconds that a load may take.
LIMIT_S = 120.0
EVERYTHING = ("attention", "operations")


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of faults that networks in the processes raise: see tests.service.faulty."""
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def devices(faults: Path) -> Iterator[Devices]:
    """Two devices; a process that a test ends is replaced for the next one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAULTS", str(faults))
        patch.setattr(process, "_MODULE", "tests.service.faulty_device")
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        devices = Devices(OPTIONS, LIMIT_S)
        yield devices
        pids = devices.pids
        devices.stop()
        assert pids
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


@pytest.fixture
def engines(devices: Devices) -> tuple[DeviceEngine, ...]:
    return devices.load(NAMES, lively(CONFIG), 4)


@pytest.fixture(scope="module")
def local() -> Engine:
    """The same network in this process."""
    return Engine(lively(CONFIG), "cpu", 1, 4)


def clips(count: int) -> dict[str, torch.Tensor]:
    return noise(CONFIG, steps=STEPS, batch=count)


def assert_equal(expected: Any, actual: Any) -> None:
    """Assert that two outputs have the same arrays, bit by bit."""
    if isinstance(expected, np.ndarray):
        assert expected.dtype == actual.dtype
        np.testing.assert_array_equal(expected, actual)
    elif isinstance(expected, Mapping):
        assert expected.keys() == actual.keys()
        for name, each in expected.items():
            assert_equal(each, actual[name])
    elif is_dataclass(expected):
        for each in fields(expected):
            assert_equal(getattr(expected, each.name), getattr(actual, each.name))
    else:
        assert expected == actual


def assert_same(expected: Output, actual: Output) -> None:
    assert_equal(to_arrays(expected), to_arrays(actual))


def test_outputs_are_those_of_an_engine_in_this_process(
    engines: tuple[DeviceEngine, ...], local: Engine
) -> None:
    for engine in engines:
        for batch, steps, explain in (
            (1, 1, ()),
            (3, STEPS, EVERYTHING),
            (6, STEPS, ("attention",)),
        ):
            frames = {name: x[:steps] for name, x in clips(batch).items()}
            assert_same(local.run(frames, steps, explain), engine.run(frames, steps, explain))
        alone = {"audio": clips(2)["audio"][:1]}
        assert_same(local.run(alone, 3), engine.run(alone, 3))
        assert engine.memory is not None
        assert 0 < engine.memory.used < engine.memory.limit
    assert [str(engine.device) for engine in engines] == NAMES


def test_inputs_are_stacked_in_shared_memory_and_results_stay_while_they_are_used(
    engines: tuple[DeviceEngine, ...], local: Engine
) -> None:
    engine = engines[0]
    blocks = engine._connection.blocks
    single = {name: x[:, 0].numpy() for name, x in clips(1).items()}
    stacked = stack_clips([single, single], engine.allocate)
    for x in stacked.values():
        values = x.numpy()
        assert blocks.refer(values)[1] is values, "it is not copied"
    first = engine.run(stacked, STEPS)
    copy = first.logits.clone()
    others = [engine.run(clips(2), STEPS) for _ in range(3)]
    assert torch.equal(first.logits, copy), "no later result is written over it"
    assert_same(local.run(clips(2), STEPS), others[-1])


def test_a_result_that_needs_more_memory_than_expected_is_received(
    engines: tuple[DeviceEngine, ...], local: Engine
) -> None:
    engines[0]._result_bytes = 1
    expected = local.run(clips(2), STEPS, ("attention",))
    for _ in range(2):
        assert_same(expected, engines[0].run(clips(2), STEPS, ("attention",)))
        assert engines[0]._result_bytes > 1000


def test_the_fused_path_is_that_of_this_process_and_a_successor_has_it(
    engines: tuple[DeviceEngine, ...], local: Engine
) -> None:
    fused = Engine(lively(CONFIG), "cpu", 1, 4)
    engine = engines[0]
    assert fused.fuse()
    assert engine.fuse()
    assert (engine.path, engines[1].path) == ("fused", "plain")
    expected = fused.run(clips(3), STEPS, ("attention",))
    assert_same(expected, engine.run(clips(3), STEPS, ("attention",)))
    successor = engine.renew()  # in the same process, which is not lost
    assert successor._process is engine._process
    assert successor.path == "fused"
    assert_same(expected, successor.run(clips(3), STEPS, ("attention",)))


def test_batches_are_timed_and_limited_in_the_process(
    engines: tuple[DeviceEngine, ...],
) -> None:
    engine, _ = engines
    assert not engine.tune(1.0, lambda: False), "there are no tiles on a CPU"
    times = engine.batch_times(1, [1, 2], 60.0)
    assert list(times) == [1, 2]
    assert all(0 < seconds < 60 for seconds in times.values())
    engine.set_max_batch(2)
    assert engine.max_batch == 2
    assert_same(Engine(lively(CONFIG), "cpu", 1, 2).run(clips(3)), engine.run(clips(3)))
    assert engine.renew().max_batch == 2


def test_invalid_inputs_are_named_and_the_next_run_works(
    engines: tuple[DeviceEngine, ...], local: Engine
) -> None:
    with pytest.raises(ValueError, match="smell: no such stream"):
        engines[0].run({"smell": clips(1)["audio"]}, STEPS)
    with pytest.raises(ValueError, match="steps 65"):
        engines[0].run(clips(1), 65)
    assert_same(local.run(clips(1), STEPS), engines[0].run(clips(1), STEPS))


def callers_of(pid: int) -> int:
    """The connections to a process, each of which has a thread and keeps a network."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [(task / "comm").read_text().strip() for task in tasks].count("scmrl-engine")


def test_a_second_network_is_loaded_into_the_same_processes_and_forgotten(
    devices: Devices, engines: tuple[DeviceEngine, ...], local: Engine
) -> None:
    pids = devices.pids
    gc.collect()
    wait_until(lambda: max(map(callers_of, pids)) == 1)  # others have been forgotten
    assert [callers_of(pid) for pid in pids] == [1, 1]
    other = lively(CONFIG, seed=5)
    second = devices.load(NAMES, other, 4)
    assert devices.pids == pids
    wait_until(lambda: [callers_of(pid) for pid in pids] == [2, 2])
    expected = Engine(other, "cpu", 1, 4).run(clips(2), STEPS)
    assert not torch.equal(expected.logits, local.run(clips(2), STEPS).logits)
    for one, two in zip(engines, second, strict=True):
        assert_same(expected, two.run(clips(2), STEPS))
        assert_same(local.run(clips(2), STEPS), one.run(clips(2), STEPS))
        assert two.memory is not None
        assert one.memory == two.memory, "the newest, whichever network ran last"
    del second, two
    gc.collect()
    wait_until(lambda: [callers_of(pid) for pid in pids] == [1, 1])
    assert_same(local.run(clips(2), STEPS), engines[0].run(clips(2), STEPS))


@contextmanager
def batching(engines: tuple[DeviceEngine, ...]) -> Iterator[Batcher]:
    batcher = Batcher(engines, max_wait_s=0.0, slots=100)
    batcher.start()
    try:
        yield batcher
    finally:
        batcher.stop()


async def ask(batcher: Batcher, seed: int = 0) -> InferenceResult:
    frames = noise(CONFIG, steps=1, batch=1, seed=seed)
    with batcher.slot() as slot:
        return await slot.run({name: x[:, 0].numpy() for name, x in frames.items()}, STEPS)


async def until(happened: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, happened)


def replace(batcher: Batcher, hung_after_s: float) -> None:
    """Replace lost workers, as the service does each second, until all devices have one."""

    def is_replaced() -> bool:
        replace_lost_workers(batcher, hung_after_s)
        return batcher.has_all_workers

    wait_until(is_replaced)


def is_busy(engine: DeviceEngine) -> bool:
    return engine._connection.is_busy


@contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_both_devices_take_batches_of_one_queue(
    devices: Devices, engines: tuple[DeviceEngine, ...]
) -> None:
    async def scenario(batcher: Batcher) -> list[InferenceResult]:
        with stopped(devices.pids):
            first = asyncio.create_task(ask(batcher, 1))
            await until(lambda: any(map(is_busy, engines)))
            second = asyncio.create_task(ask(batcher, 2))
            await until(lambda: all(map(is_busy, engines)))
            third = asyncio.create_task(ask(batcher, 3))
            await until(lambda: batcher.queued == 1)
        return await asyncio.gather(first, second, third)

    with batching(engines) as batcher:
        answers = asyncio.run(scenario(batcher))
    assert len({tuple(each.output.logits[0]) for each in answers}) == 3


def test_the_benchmark_of_devices_counts_what_each_runs_of_one_queue(devices: Devices) -> None:
    network = lively(CONFIG)
    one, both, busy = bench_devices.measure(
        devices, NAMES, network, STEPS, make_clips(CONFIG), max_batch=2, seconds=0.3, rounds=1
    )
    assert [len(each.shares) for each in (one, both, busy)] == [1, 2, 2]
    for each in (one, both, busy):
        assert all(0 < share.batches <= share.clips <= 2 * share.batches for share in each.shares)
        assert min(each.clips_s, each.without_queue_clips_s) > 0
        assert 0 < each.p50_ms <= each.p99_ms <= each.longest_ms
        assert 0 < each.fewest_clips <= 1 <= each.most_clips, "no client waits for ever"
    every_core = os.sched_getaffinity(0)
    assert [os.sched_getaffinity(pid) for pid in devices.pids] == [every_core] * 2


def test_a_killed_process_costs_its_batch_and_is_replaced_with_all_its_networks(
    devices: Devices, engines: tuple[DeviceEngine, ...]
) -> None:
    second = devices.load(NAMES, lively(CONFIG, seed=5), 4)
    old = devices.pids

    async def scenario(batcher: Batcher, other: Batcher) -> None:
        expected, of_other = await ask(batcher), await ask(other)
        with stopped(old):
            running = [asyncio.create_task(ask(batcher))]
            await until(lambda: any(map(is_busy, engines)))
            running.append(asyncio.create_task(ask(batcher)))
            await until(lambda: all(map(is_busy, engines)))
            os.kill(old[0], signal.SIGKILL)
        outcomes = await asyncio.gather(*running, return_exceptions=True)
        (lost,) = (each for each in outcomes if isinstance(each, Problem))
        (answered,) = (each for each in outcomes if isinstance(each, InferenceResult))
        assert lost.error is Error.NOT_READY
        assert_equal(expected.output, answered.output)
        wait_until(lambda: devices.pids == old[1:])
        for each in (batcher, other):
            assert each.not_ready_reason(60) is None, "the other device works"
            assert not each.has_all_workers
        # Another checkpoint's idle worker on the lost device takes a batch, and gives it back.
        several = await asyncio.gather(*(ask(other) for _ in range(8)))
        for each in several:
            np.testing.assert_allclose(each.output.logits, of_other.output.logits, atol=1e-5)
        for each in (batcher, other):
            await asyncio.to_thread(replace, each, 60)
            assert (each.has_all_workers, each.restarts) == (True, 1)
        assert devices.pids[1] == old[1]
        assert devices.pids[0] not in old
        assert_equal(expected.output, (await ask(batcher)).output)
        assert_equal(of_other.output, (await ask(other)).output)

    with batching(engines) as batcher, batching(second) as other:
        asyncio.run(scenario(batcher, other))


def test_a_process_that_hangs_is_killed_and_replaced(
    devices: Devices, engines: tuple[DeviceEngine, ...]
) -> None:
    old = devices.pids

    async def scenario(batcher: Batcher) -> None:
        expected = await ask(batcher)
        os.kill(old[0], signal.SIGSTOP)
        tasks = [asyncio.create_task(ask(batcher)) for _ in range(2)]
        await until(lambda: is_busy(engines[0]) or all(task.done() for task in tasks))
        while not is_busy(engines[0]):  # the other one took both
            tasks.append(asyncio.create_task(ask(batcher)))
            await asyncio.sleep(0.02)
        await until(lambda: not is_busy(engines[1]))
        await asyncio.sleep(0.1)
        assert batcher.restarts == 0
        await asyncio.to_thread(replace_lost_workers, batcher, 0.05)
        await asyncio.to_thread(replace, batcher, 60)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        lost = [each for each in outcomes if isinstance(each, Problem)]
        assert {each.error for each in lost} == {Error.NOT_READY}
        assert (batcher.restarts, batcher.has_all_workers) == (1, True)
        assert_equal(expected.output, (await ask(batcher)).output)

    with batching(engines) as batcher:
        asyncio.run(scenario(batcher))
    assert old[1] in devices.pids
    assert len(devices.pids) == 2
    wait_until(lambda: not Path(f"/proc/{old[0]}").exists())


def test_faults_of_a_network_arrive_and_a_lost_device_is_replaced(
    faults: Path, engines: tuple[DeviceEngine, ...], local: Engine
) -> None:
    engine = engines[0]
    (faults / "fail").write_text("1")
    with pytest.raises(DeviceFailure, match="RuntimeError: an injected failure"):
        engine.run(clips(1), STEPS)
    (faults / "out-of-memory").write_text("1")
    in_parts, expected = engine.run(clips(2), STEPS), local.run(clips(2), STEPS)
    torch.testing.assert_close(in_parts.logits, expected.logits, rtol=1e-3, atol=1e-3)
    assert engine.out_of_memory_count == 1
    (faults / "out-of-memory").write_text("1")
    with pytest.raises(MemoryError, match="for one sample"):
        engine.run(clips(1), STEPS)
    assert engine.out_of_memory_count == 2
    assert not engine.is_lost
    (faults / "lose").write_text("1")
    with pytest.raises(DeviceLost, match="an injected CUDA error"):
        engine.run(clips(1), STEPS)
    assert engine.is_lost
    assert not engine.fuse(), "it is left to the successor"
    assert_same(local.run(clips(1), STEPS), engines[1].run(clips(1), STEPS))
    successor = engine.renew()
    assert (successor.out_of_memory_count, successor.path) == (2, "fused")
    torch.testing.assert_close(
        successor.run(clips(1), STEPS).logits,
        local.run(clips(1), STEPS).logits,
        rtol=1e-3,
        atol=1e-3,
    )


def test_a_process_that_hangs_in_a_load_or_a_warm_up_is_killed(
    devices: Devices, engines: tuple[DeviceEngine, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else may run on its device for hours, and find that."""
    with monkeypatch.context() as patch:
        patch.setattr(process, "_MODULE", "tests.service.never_begins")
        hanging = Devices(OPTIONS, limit_s=0.2)
        with pytest.raises(DeviceLost, match="does not answer: timed out"):
            hanging.load(["cpu"], lively(CONFIG), 4)
        assert hanging.pids == []
        hanging.stop()
    engine, (pid, _) = engines[0], devices.pids
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: "(stopped)" in Path(f"/proc/{pid}/status").read_text())
    monkeypatch.setattr(engine, "_limit_s", 0.2)
    with pytest.raises(DeviceLost, match="does not answer: timed out"):
        engine.warm_up(1, [1])
    assert engine.is_lost
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_a_process_that_fails_at_its_start_is_not_started_again_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "_MODULE", "service.no_such_module")
    monkeypatch.setattr(device, "_RETRY_S", 1000)
    devices = Devices(OPTIONS, LIMIT_S)
    for reason in ("does not answer|is closed|no connection", "has just failed"):
        with pytest.raises(DeviceLost, match=reason):
            devices.load(["cpu"], lively(CONFIG), 4)
    assert devices.pids == []
    devices.stop()
    with pytest.raises(DeviceLost, match="shutting down"):
        devices.load(["cpu"], lively(CONFIG), 4)


def test_a_checkpoint_is_refused_for_a_while_where_a_device_is_lost(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_MODULE", "service.no_such_module")
    monkeypatch.setattr("model.engine.devices", lambda name: NAMES)
    models = ModelServer(Settings(models=weights))
    try:
        with pytest.raises(Problem, match="A device was lost") as refused:
            models.reloads.load("strict")
    finally:
        models.stop()
    assert refused.value.error is Error.NOT_READY
    assert refused.value.retry_after_s is not None
