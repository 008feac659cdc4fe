"""A checkpoint on its devices: what each engine is made with."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.inference import served_model
from service.settings import Settings

pytestmark = pytest.mark.slow


def test_a_devices_engine_has_the_batch_size_of_the_setting(weights: Path) -> None:
    (engine,) = served_model.load(weights / "avdigits", Settings(max_batch=3, device="cpu")).engines
    assert engine.max_batch == 3
