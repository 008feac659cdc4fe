"""The kernels of means: CCSSA, tokens with a residual, and a stream's features and logits."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton", reason="needs triton, which there is for Linux on x86-64")

from model.config import Config, StreamConfig
from model.fused.cuda import packed_spikes
from model.fused.cuda.network import CUDANetwork
from tests.model.fused.cuda.test_network import DEVICE, pack
from tests.model.networks import lively, noise

pytestmark = pytest.mark.slow


class Operations(TorchDispatchMode):
    """Counts torch's operations that compute or copy; kernels of ours are no operations."""

    NO_KERNEL = frozenset(
        [
            "empty",
            "new_empty",
            "view",
            "permute",
            "unsqueeze",
            "squeeze",
            "select",
            "split",
            "slice",
            "t",
            "transpose",
            "expand",
            "detach",
            "alias",
            "as_strided",
            "unbind",
            "reshape",
            "_unsafe_view",
            "_reshape_alias",
        ]
    )

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.is_in_kernel = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        name = func.overloadpacket.__name__
        self.count += name not in self.NO_KERNEL and not self.is_in_kernel
        return func(*args, **(kwargs or {}))


def test_a_pass_of_two_streams_of_four_stages_is_46_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if DEVICE.type == "cuda":
        pytest.skip("`scmrl bench engine` counts them on a GPU")
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    launch, operations = interpreter.GridExecutor.__call__, Operations()
    launched: Counter[str] = Counter()

    def counted(self: Any, *args: Any, **constants: Any) -> None:
        launched[self.fn.__name__] += 1
        operations.is_in_kernel = True
        launch(self, *args, **constants)
        operations.is_in_kernel = False

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", counted)
    streams = {
        name: StreamConfig(channels=channels, size=(16, 16))
        for name, channels in (("audio", 1), ("visual", 3))
    }
    network = lively(Config(streams=streams, classes=3, embed_dim=16, heads=2))
    frames = noise(network.config, steps=1, batch=1)
    fused = CUDANetwork(network)
    with torch.no_grad(), operations:
        fused(frames, 2, False)
    assert launched == {
        "fire": 24, "pool": 8, "attend_over_tokens": 2, "attend_over_steps": 2, "complement": 2,
        "unpack": 2, "summarize": 2,
    }  # fmt: skip
    assert operations.count == 4, "channels last, and the sum of the logits of the streams"


SIZES = {
    "steps": st.sampled_from([1, 3, 9, 33]),
    "batch": st.integers(1, 2),
    "tokens": st.sampled_from([1, 7, 65]),
    "channels": st.sampled_from([1, 16, 35]),
    "seed": st.integers(0, 1000),
}


def spikes(count: int, steps: int, batch: int, tokens: int, channels: int, seed: int) -> Tensor:
    """`count` tensors of spikes [T, B, N, C]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((count, steps, batch, tokens, channels), generator=generator) < 0.3


@given(**SIZES | {"steps": st.sampled_from([1, 3, 9])})  # its time grows with their square
@settings(max_examples=5)
def test_the_complement_is_the_product_of_both_means(
    steps: int, batch: int, tokens: int, channels: int, seed: int
) -> None:
    spatial, temporal = spikes(2, steps, batch, tokens, channels, seed)
    actual = packed_spikes.complement(pack(spatial), pack(temporal), steps)
    over_tokens = spatial.float().mean(-2, keepdim=True)
    expected = over_tokens * temporal.float().mean(0, keepdim=True)
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-6, atol=1e-7)


@given(**SIZES, alpha=st.sampled_from([0.5, 1.5, 2.0]))
@settings(max_examples=5)
def test_values_are_tokens_plus_alpha_times_the_residual(
    steps: int, batch: int, tokens: int, channels: int, seed: int, alpha: float
) -> None:
    pooled, position, residual = spikes(3, steps, batch, tokens, channels, seed)
    actual = packed_spikes.unpack(pack(pooled), steps, pack(position), pack(residual), alpha)
    expected = pooled.float() + position.float() + alpha * residual.float()
    assert torch.equal(actual.cpu(), expected)


@given(
    **SIZES,
    alpha=st.sampled_from([0.5, 1.5]),
    classes=st.sampled_from([1, 5, 129]),
    has_residual=st.booleans(),
)
@settings(max_examples=6)
def test_features_rate_residual_and_logits_of_a_stream(
    steps: int, batch: int, tokens: int, channels: int, seed: int, alpha: float, classes: int,
    has_residual: bool,
) -> None:  # fmt: skip
    parts = spikes(4, steps, batch, tokens, channels, seed)
    pooled, position, residual, last = parts.float()
    # The head of a stream may be some columns of a larger matrix.
    whole = torch.randn(classes, channels + 3, generator=torch.Generator().manual_seed(seed))
    head = whole[:, 2 : 2 + channels]
    packed = [pack(part) for part in parts]
    summary = packed_spikes.summarize(
        packed[0], packed[1], packed[2] if has_residual else None, packed[3],
        whole.to(DEVICE)[:, 2 : 2 + channels], alpha, steps,
    )  # fmt: skip
    x = pooled + position + last + (alpha * residual if has_residual else 0)
    features = x.mean((0, -2))
    torch.testing.assert_close(summary.features.cpu(), features, rtol=1e-5, atol=1e-6)
    rate = (pooled + position).mean((0, -2, -1)) / 2
    torch.testing.assert_close(summary.firing_rate.cpu(), rate, rtol=1e-5, atol=1e-6)
    assert (summary.residual is not None) == has_residual
    if summary.residual is not None:
        expected = residual.mean(-2)
        torch.testing.assert_close(summary.residual.cpu(), expected, rtol=1e-6, atol=1e-7)
    assert (summary.logits is not None) == (classes <= 128)
    if summary.logits is not None:
        logits = features @ head.T
        torch.testing.assert_close(summary.logits.cpu(), logits, rtol=1e-4, atol=1e-5)
