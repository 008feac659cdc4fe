"""What is measured in the background: forced on a CPU, since there is no GPU here."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch

from service.device_link.connection import DeviceLost
from service.inference import served_model
from service.inference.batch_choice import DEFAULT_MAX_BATCH, SIZES
from service.inference.batching import Batcher
from service.inference.registry import Registry
from service.inference.served_model import ServedModel
from service.inference.tuning import Tuning
from service.settings import Settings
from tests.service.engines import NumberEngine, replace_lost_workers
from tests.service.running_server import wait_until

pytestmark = pytest.mark.slow

CPU = frozenset({"cpu"})
#: So short a wait ends the measurement at small batches.
WAIT_S = 0.2


@pytest.fixture
def registry(weights: Path) -> Iterator[Registry[ServedModel]]:
    """A checkpoint that is served on the CPU, with the default settings."""
    settings = Settings(device="cpu", threads=1)
    model = served_model.load(weights / "avdigits", settings, served_model.make_processes(settings))
    model.batcher.start()
    registry = Registry[ServedModel]("avdigits")
    registry.publish(model)
    yield registry
    model.batcher.stop()


def measure(registry: Registry[ServedModel], settings: Settings) -> ServedModel:
    """Measure the checkpoint to the end, and return it."""
    model = registry.get("avdigits")
    thread = Tuning(settings, registry, threading.Event(), CPU).start(model)
    assert thread is not None
    thread.join(120)
    assert not thread.is_alive()
    return model


def test_the_measured_batch_is_used_by_engine_queue_and_admission(
    registry: Registry[ServedModel], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "scmrl.batching"):
        model = measure(registry, Settings(max_wait_s=WAIT_S))
    (engine,) = model.engines
    (line,) = [r.getMessage() for r in caplog.records if "requests in a batch" in r.getMessage()]
    assert f"at most {engine.max_batch} requests" in line
    assert "(measured 1: " in line
    assert engine.max_batch in SIZES
    assert model.batcher.admission.always_admit == 2 * engine.max_batch


def test_a_set_batch_and_one_on_a_cpu_stay(registry: Registry[ServedModel]) -> None:
    model = measure(registry, Settings(max_batch=5, tune_s=1.0))
    assert model.engines[0].max_batch == DEFAULT_MAX_BATCH, "it was made with the default settings"
    stopping = threading.Event()
    assert Tuning(Settings(max_batch=5, tune_s=0), registry, stopping, CPU).start(model) is None
    assert Tuning(Settings(), registry, stopping).start(model) is None
    assert model.engines[0].max_batch == DEFAULT_MAX_BATCH


@pytest.mark.parametrize("is_stopping", [False, True])
def test_nothing_is_measured_for_a_stopping_service_or_an_unloaded_checkpoint(
    is_stopping: bool, registry: Registry[ServedModel]
) -> None:
    model, stopping = registry.get("avdigits"), threading.Event()
    if is_stopping:
        stopping.set()
    else:
        registry.remove("avdigits")
    thread = Tuning(Settings(), registry, stopping, CPU).start(model)
    assert thread is not None
    thread.join(120)
    assert model.engines[0].max_batch == DEFAULT_MAX_BATCH


class LosableEngine(NumberEngine):
    """An engine that is lost when it is measured, if `loses`."""

    def __init__(self, *, loses: bool) -> None:
        super().__init__()
        self._loses = loses
        self._is_lost = False

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cpu")

    @property
    def is_lost(self) -> bool:
        return self._is_lost

    def batch_times(self, steps: int, sizes: Iterable[int], longest_s: float) -> dict[int, float]:
        if self._loses:
            self._is_lost = True
            raise DeviceLost("its process was killed")
        return dict.fromkeys(sizes, 0.01)

    def renew(self) -> LosableEngine:
        return LosableEngine(loses=False)


def test_a_device_that_is_lost_while_it_is_measured_is_measured_again(
    registry: Registry[ServedModel],
) -> None:
    batcher = Batcher([LosableEngine(loses=True)], max_wait_s=0, slots=1000)  # type: ignore[list-item]
    batcher.start()
    model = ServedModel("avdigits", registry.get("avdigits").card, batcher)
    registry.publish(model)
    thread = Tuning(Settings(tune_s=0), registry, threading.Event(), CPU).start(model)
    assert thread is not None
    wait_until(lambda: not batcher.has_all_workers)
    replace_lost_workers(batcher)
    thread.join(60)
    assert not thread.is_alive()
    (engine,) = model.engines
    assert not engine.is_lost
    assert engine.max_batch == max(SIZES)
    batcher.stop()
