"""The watch over the workers of several checkpoints, and their end: none waits for another."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.inference import model_server, watch
from service.inference.batching import Batcher
from service.inference.model_server import ModelServer
from service.inference.registry import Registry
from service.inference.served_model import ServedModel
from service.settings import Settings
from tests.service import checkpoints
from tests.service.engines import NumberEngine, behind, no_threads, started
from tests.service.inference.test_batching_losses import Poisoned, die, lost
from tests.service.running_server import wait_until

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Replacements:
    """Each replacement of an engine waits for one `release`."""

    def __init__(self, make: Callable[[], NumberEngine]) -> None:
        self._make = make
        self._permits = threading.Semaphore(0)

    def release(self) -> None:
        self._permits.release()

    def renew(self) -> NumberEngine:
        assert self._permits.acquire(timeout=60)
        return self._make()


def registry_of(**batchers: Batcher) -> Registry[ServedModel]:
    registry = Registry[ServedModel]("first")
    for name, batcher in batchers.items():
        registry.publish(ServedModel(name, checkpoints.card(), batcher))
    return registry


def check(registry: Registry[ServedModel], failing: set[str]) -> None:
    """Check once, as the service does each second."""
    watch._replace_lost_workers(registry, 60, failing)


@contextmanager
def in_thread(work: Callable[[], object]) -> Iterator[None]:
    """Do work in a thread, which has ended when the block has."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_a_replacement_that_hangs_delays_that_of_no_other_checkpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "_PATIENCE_S", 60)
    hanging = Replacements(NumberEngine)
    first, second = NumberEngine(die), NumberEngine(die)
    monkeypatch.setattr(first, "renew", hanging.renew)
    with lost(first) as one, lost(second) as two:
        registry = registry_of(first=one, second=two)
        with in_thread(lambda: check(registry, set())):
            try:
                wait_until(lambda: two.has_all_workers)
                assert not one.has_all_workers
            finally:
                hanging.release()
        wait_until(lambda: one.has_all_workers)


def test_a_device_that_fails_slowly_again_and_again_is_in_the_log_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> NumberEngine:
        raise Poisoned("still")

    monkeypatch.setattr(watch, "_PATIENCE_S", 0)
    engine, slow, failing = NumberEngine(die), Replacements(fail), set[str]()
    monkeypatch.setattr(engine, "renew", slow.renew)
    with lost(engine) as batcher, caplog.at_level(logging.ERROR, "scmrl.registry"):
        registry = registry_of(first=batcher)
        for _ in range(2):
            check(registry, failing)  # one is being made
            slow.release()
            wait_until(lambda: bool(batcher._supervisor._errors))
            check(registry, failing)
        slow.release()
    logged = [each.getMessage() for each in caplog.records if each.name == "scmrl.registry"]
    assert logged == ["the worker of first cannot be replaced; retrying every 1 s"]


def test_a_worker_whose_successor_gets_no_thread_is_replaced_later() -> None:
    with lost(NumberEngine(die)) as batcher:
        registry, failing = registry_of(first=batcher), set[str]()
        with no_threads():
            check(registry, failing)
        assert failing == {"first"}
        wait_until(lambda: (check(registry, failing), batcher.has_all_workers)[1])
        assert not failing


def test_workers_that_hang_are_waited_for_together_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_server, "JOIN_S", 60)
    server = ModelServer(Settings(models=tmp_path))
    engines = [NumberEngine() for _ in range(2)]

    async def hang(engine: NumberEngine, batcher: Batcher) -> None:
        (await behind(engine, batcher)).cancel()

    with started(engines[0]) as first, started(engines[1]) as second:
        for name, engine, batcher in zip("ab", engines, (first, second), strict=True):
            server.registry.publish(ServedModel(name, checkpoints.card(), batcher))
            asyncio.run(hang(engine, batcher))
        with in_thread(server.stop):
            try:
                wait_until(lambda: first._queue.is_closed and second._queue.is_closed)
            finally:
                for engine in engines:
                    engine.go.set()
