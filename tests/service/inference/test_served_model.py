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
