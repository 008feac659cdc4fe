"""The torch state of runs on CUDA, which is the process's: threads set it at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
import torch

from model.engine.plain import inference_context


def test_a_run_that_ends_leaves_tf32_off_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)  # and restores it afterwards
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    first, second = (inference_context(torch.device("cuda", 0)) for _ in range(2))
    # In a thread of its own: whether gradients are computed is a thread's state.
    with ThreadPoolExecutor(1) as other:
        with first:
            other.submit(second.__enter__).result()
        assert not torch.backends.cudnn.allow_tf32, "the second one is still running"
        other.submit(second.__exit__, None, None, None).result()
    assert not torch.backends.cudnn.allow_tf32, "a run that sets it again may have begun before"
    assert torch.is_grad_enabled()


def test_runs_on_a_cpu_leave_the_setting_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with inference_context(torch.device("cpu")):
        assert torch.is_inference_mode_enabled()
    assert torch.backends.cudnn.allow_tf32
