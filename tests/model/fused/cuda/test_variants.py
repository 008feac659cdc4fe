"""The variants of a kernel that are compiled: before requests wait for the path, and few."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs triton, which there is for Linux on x86-64")

from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

from model.config import Config, StreamConfig
from model.engine import paths
from model.engine.cuda_graphs import BATCH_SIZES
from model.engine.paths import Paths
from model.fused.cuda import network as cuda_network
from model.fused.cuda import triton_kernels
from model.network import SCMRL
from tests.model.networks import lively

STREAM = StreamConfig(channels=1, size=(4, 4), splitting="shallow")
CONFIG = Config(streams={"a": STREAM}, classes=3, embed_dim=8, heads=2)


def test_no_kernel_is_compiled_anew_for_one_step_or_sixteen() -> None:
    with_steps = []
    for name, kernel in vars(triton_kernels).items():
        if not isinstance(kernel, JITFunction | InterpretedFunction) or name.startswith("_"):
            continue
        if "steps" in kernel.arg_names:
            with_steps.append(name)
            options = kernel.kwargs if isinstance(kernel, InterpretedFunction) else vars(kernel)
            assert list(options["do_not_specialize"]) == ["steps"], name
    assert {"fire", "summarize", "attend_over_steps"} <= set(with_steps)


def test_a_path_runs_with_all_shapes_of_inputs_before_requests_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs: set[tuple[int, int, int]] = set()  # frames, batch, time steps
    lock = threading.Lock()

    class Network:
        """A stand-in for the fused network that keeps the shapes of its inputs."""

        def __init__(self, network: SCMRL, **options: object) -> None:
            pass

        def __call__(self, inputs: Mapping[str, Tensor], steps: int, attention: bool) -> None:
            assert not lock.locked()
            runs.add((*inputs["a"].shape[:2], steps))

    monkeypatch.setattr(cuda_network, "CUDANetwork", Network)
    monkeypatch.setattr(paths, "GraphedNetwork", lambda _, forward: forward)
    with torch.inference_mode():
        Paths(lively(CONFIG), 1, lock)._build("fused-graphs", 16)
    expected = {(frames, batch, 16) for frames in (1, 16) for batch in BATCH_SIZES}
    assert runs == expected | {(frames, 2, 2) for frames in (1, 2)}, "the last are compared"
