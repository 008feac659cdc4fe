"""Errors of CUDA are sorted by their codes: a lack of memory, a failed recording, a lost device."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from model.config import Config, StreamConfig
from model.cuda_error import is_out_of_memory, recordings_may_fail
from model.engine.engine import Engine
from model.network import Output
from service.device_link.connection import FATAL
from tests.model.networks import lively, noise

STREAM = StreamConfig(channels=1, size=(4, 4), splitting="shallow")
CONFIG = Config(streams={"a": STREAM}, classes=3, embed_dim=8, heads=2)


def cuda_error(code: int | None) -> torch.AcceleratorError:
    """An error as torch raises it, with a code of cudaError_t."""
    error = torch.AcceleratorError(f"CUDA error {code}")
    if code is not None:
        error.error_code = code  # type: ignore[attr-defined]
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(), True),
        (MemoryError(), True),
        (cuda_error(2), True),
        (cuda_error(700), False),
        (cuda_error(None), False),
        (RuntimeError("2"), False),
    ],
)
def test_a_lack_of_memory_is_known_by_its_type_or_code(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


@pytest.mark.parametrize(
    ("code", "is_fatal"),
    [(899, True), (900, False), (904, False), (908, False), (909, True), (700, True), (None, True)],
)
def test_a_failed_recording_is_not_a_lost_device(code: int | None, is_fatal: bool) -> None:
    with pytest.raises(RuntimeError, match="CUDA") as caught, recordings_may_fail():
        raise cuda_error(code)
    assert (type(caught.value).__name__ in FATAL) == is_fatal


def failing(error: Exception, samples: int) -> Engine:
    """An engine that raises an error for more than some samples."""
    engine = Engine(lively(CONFIG), "cpu")
    compute = engine._compute

    def limited(inputs: Mapping[str, Tensor], steps: int, attention: bool) -> Output:
        if inputs["a"].shape[1] > samples:
            raise error
        return compute(inputs, steps, attention)

    engine._compute = limited
    return engine


def test_an_engine_runs_smaller_batches_where_cuda_itself_lacks_memory() -> None:
    inputs = noise(CONFIG, steps=1, batch=3)
    engine = failing(cuda_error(2), 1)
    assert len(engine.run(inputs, 1).logits) == 3
    assert engine.out_of_memory_count == 1


@pytest.mark.parametrize(("code", "kind"), [(901, RuntimeError), (700, torch.AcceleratorError)])
def test_other_errors_of_cuda_are_raised(code: int, kind: type[Exception]) -> None:
    engine = failing(cuda_error(code), 0)
    with pytest.raises(RuntimeError, match=str(code)) as caught:
        engine.run(noise(CONFIG, steps=1, batch=3), 1)
    assert type(caught.value) is kind
    assert engine.out_of_memory_count == 0


def test_an_engine_without_memory_for_its_context_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(code: int) -> None:
        raise cuda_error(code)

    network = lively(CONFIG)
    monkeypatch.setattr(network, "to", lambda _: fail(2))
    with pytest.raises(MemoryError, match="weights"):
        Engine(network, "cpu")
    monkeypatch.setattr(network, "to", lambda _: fail(700))
    with pytest.raises(torch.AcceleratorError, match="700"):
        Engine(network, "cpu")
