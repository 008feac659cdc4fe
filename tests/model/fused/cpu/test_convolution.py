"""Convolutions of spikes are the plain network's: any shape, any number of spikes, each kernel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

from model.fused.cpu import sparse
from model.fused.cpu.convolution import SpikeStage
from model.fused.folding import Folded
from model.network.neuron import LIF

pytestmark = pytest.mark.slow


def spikes(steps: int, channels: int, height: int, width: int, density: float) -> Tensor:
    """[T, C, H, W], bytes, channels last."""
    rng = np.random.default_rng(0)
    fired = (rng.random((steps, height, width, channels)) < density).astype(np.uint8)
    return torch.from_numpy(fired).permute(0, 3, 1, 2)


def layer(channels: int, out: int) -> Folded:
    """Weights and bias are multiples of 1/64, so that sums are exact in any order."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn((out, channels, 3, 3), generator=generator) / channels**0.5
    bias = torch.randn(out, generator=generator)
    return Folded((weight * 16).round() / 64, (bias * 16).round() / 64, LIF().decay)


def expected(x: Tensor, folded: Folded, pooled: bool) -> Tensor:
    lif = LIF()
    current = conv2d(x.float(), folded.weight, folded.bias, padding=1)
    fired: Tensor = lif(current * lif.tau)
    return max_pool2d(fired, 3, stride=2, padding=1) if pooled else fired


@settings(max_examples=80)
@given(
    steps=st.integers(1, 5),
    # Kernels are compiled for kinds of channels and outputs.
    shape=st.sampled_from([(1, 5), (6, 16), (8, 64), (24, 16), (16, 40), (32, 64)]),
    height=st.integers(1, 19),
    width=st.integers(1, 19),
    density=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    skips=st.booleans(),
    pooled=st.booleans(),
)
# More pixels than exist at a time; more tables than are kept; several blocks of outputs.
@example(3, (8, 16), 23, 41, 0.3, False, True)
@example(2, (288, 64), 5, 4, 0.5, False, True)
@example(2, (256, 96), 3, 5, 0.5, False, False)
@example(2, (128, 128), 9, 20, 0.1, True, True)
def test_it_is_the_convolution_with_its_neurons(
    steps: int, shape: tuple[int, int], height: int, width: int, density: float, skips: bool,
    pooled: bool,
) -> None:  # fmt: skip
    x, folded = spikes(steps, shape[0], height, width, density), layer(*shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse, "max_conv_density", lambda channels: 1.0 if skips else 0.0)
        convolve = SpikeStage(folded, pooled=pooled)
    fired = convolve(x, steps)
    assert fired.dtype == torch.uint8
    assert fired.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(fired.float(), expected(x, folded, pooled))


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_sums_are_exact_to_1e_5(limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without decay a neuron fires where its current reaches 1. One current of each filter is 1e-5
    below."""
    monkeypatch.setattr(sparse, "max_conv_density", lambda channels: limit)
    x = spikes(4, 256, 16, 16, 0.3)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn((64, 256, 3, 3), generator=generator) / (9 * 256) ** 0.5
    exact = conv2d(x.double(), weight.double(), padding=1)
    bias = 1 - exact[0, :, 8, 8] - 1e-5
    fired = SpikeStage(Folded(weight, bias.float(), 0.0), pooled=False)(x, 4)
    wrong = fired != (exact + bias[:, None, None] >= 1)
    assert not wrong.any()


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_a_step_is_the_same_whatever_comes_after_it(
    limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparse, "max_conv_density", lambda channels: limit)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn((8, 32, 3, 3), generator=generator) / 9
    convolve = SpikeStage(Folded(weight, torch.zeros(8), 0.5), pooled=True)
    x = spikes(7, 32, 9, 10, 0.3)
    for steps in range(1, 7):
        assert torch.equal(convolve(x, 7)[:steps], convolve(x[:steps], steps))
