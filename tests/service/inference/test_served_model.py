"""A checkpoint on its devices: what each engine is made with."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.inference import served_model
from service.settings import Settings

pytestmark = pytest.mark.slow


def test_a_devices_engine_has_the_batch_size_of_the_setting(weights: Path) -> None:
    settings = Settings(max_batch=3, device="cpu")
    processes = served_model.make_processes(settings)
    (engine,) = served_model.load(weights / "avdigits", settings, processes).engines
    assert engine.max_batch == 3
    assert processes.pids == [], "one device needs no process of its own"


def test_a_checkpoints_queue_waits_as_long_as_the_settings_say(weights: Path) -> None:
    settings = Settings(max_batch_wait_ms=3, max_batch_wait_under_load_ms=70, device="cpu")
    processes = served_model.make_processes(settings)
    queue = served_model.load(weights / "avdigits", settings, processes).batcher._queue
    assert queue._max_wait_s == pytest.approx(0.003)
    assert queue._max_wait_under_load_s == pytest.approx(0.07)
