"""Memory and threads do not grow when checkpoints are loaded and unloaded."""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model import allocator
from model.engine import Engine
from service.errors import Problem
from service.inference import model_loader, startup, watch
from service.inference.model_server import ModelServer
from service.inference.served_model import ServedModel
from service.runtime import garbage_collection
from service.settings import Settings
from tests.resident import MIB, UnreturnedMemory, needs_glibc, resident
from tests.service.inference.test_registry import damage
from tests.service.running_server import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def models(weights: Path, tmp_path: Path) -> Iterator[ModelServer]:
    folder = Path(shutil.copytree(weights, tmp_path / "weights"))
    models = ModelServer(Settings(models=folder, compile="off"))
    models.startup.load_default()
    models.reloads.load("strict")
    garbage_collection.freeze()  # as a service does that has started
    yield models
    models.stop()


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Engine]]:
    """Let loads fail after they have made an engine; return weak references to these engines."""
    engines: list[weakref.ref[Engine]] = []

    def fail(model: ServedModel) -> None:
        engines.extend(map(weakref.ref, model.engines))
        raise RuntimeError("no more of them")

    monkeypatch.setattr(model_loader, "warm", fail)
    return engines


def load_anew(models: ModelServer, folder: Path) -> None:
    models.reloads.load("avdigits")


def unload(models: ModelServer, folder: Path) -> None:
    models.reloads.unload("strict")


def fail_to_load(models: ModelServer, folder: Path) -> None:
    damage(folder / "strict")
    with pytest.raises(Problem, match="sha256"):
        models.reloads.load("strict")


@needs_glibc
@pytest.mark.parametrize("change", [load_anew, unload, fail_to_load])
def test_freed_memory_is_returned_to_the_kernel(
    models: ModelServer, tmp_path: Path, change: Callable[[ModelServer, Path], None]
) -> None:
    unreturned = UnreturnedMemory(200 * MIB)
    before = resident()
    change(models, tmp_path / "weights")
    assert resident() < before - 100 * MIB
    unreturned.release()


def test_checkpoints_that_are_loaded_anew_leave_no_thread(models: ModelServer) -> None:
    fused = sum(engine.fuse() for engine in models.registry.get("avdigits").engines)
    assert fused
    models.reloads.load("avdigits")
    before = threading.active_count()
    for _ in range(3):
        assert all(engine.fuse() for engine in models.registry.get("avdigits").engines)
        models.registry.get("avdigits").engines[0].warm_up(1, [1])
        models.reloads.load("avdigits")
    wait_until(lambda: threading.active_count() <= before)


def test_the_network_of_a_failed_load_is_freed(
    models: ModelServer, failing: list[weakref.ref[Engine]]
) -> None:
    with pytest.raises(Problem, match="no more of them") as failed:
        models.reloads.load("strict")
    gc.collect()
    assert [engine() for engine in failing] == [None]
    assert failed.value.__cause__ is not None


def test_networks_of_loads_that_failed_at_the_start_are_freed(
    weights: Path, failing: list[weakref.ref[Engine]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "_DELAY_S", 0.0)
    with monkeypatch.context() as works:
        works.setattr(model_loader, "warm", lambda model: None)
        models = ModelServer(Settings(models=weights, compile="off"))
        models.startup.load_default()
    models.startup.load_others()
    garbage_collection.freeze()
    gc.collect()
    assert models.registry.status("strict") == "failed"
    assert [engine() for engine in failing] == [None]
    models.stop()


def test_freed_memory_is_returned_when_idle_and_now_and_then_when_not(
    models: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trimmed = threading.Event()
    watching = threading.Thread(target=models.watch_workers, daemon=True)

    def trim() -> bool:
        if threading.current_thread() is watching:  # services of other tests are idle too
            trimmed.set()
        return True

    monkeypatch.setattr(allocator, "trim", trim)
    monkeypatch.setattr(watch, "_WATCH_S", 0.01)
    monkeypatch.setattr(watch, "_BUSY_CHECKS", 10**6)
    with models.registry.get("avdigits").batcher.slot():
        watching.start()
        assert not trimmed.wait(0.5)
        monkeypatch.setattr(watch, "_BUSY_CHECKS", 1)
        assert trimmed.wait(60)
        monkeypatch.setattr(watch, "_BUSY_CHECKS", 10**6)
    trimmed.clear()
    assert trimmed.wait(60)
