"""A checkpoint on its devices: what each engine is made with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from service.inference import batch_size, served_model
from service.settings import Settings

pytestmark = pytest.mark.slow


def test_a_devices_engine_has_the_batch_size_of_the_setting(weights: Path) -> None:
    (engine,) = served_model.load(weights / "avdigits", Settings(max_batch=3, device="cpu")).engines
    assert engine.max_batch == 3


def test_devices_may_have_different_batch_sizes(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"auto": 2, "cpu": 5}  # two names of the CPU, where there is no other device
    if torch.cuda.is_available():
        pytest.skip("auto is a GPU")
    monkeypatch.setattr("model.engine.devices", lambda name: list(sizes))
    monkeypatch.setattr(batch_size, "max_batch", lambda device, settings: sizes[device])
    model = served_model.load(weights / "avdigits", Settings(max_batch=3))
    assert [engine.max_batch for engine in model.engines] == [2, 5]
