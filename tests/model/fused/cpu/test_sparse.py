"""Layers that skip zeros give what dense ones give, at any density, shape and border."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv2d

from model.fused.cpu import sparse
from model.fused.cpu.layers import Linear, _conv3x3
from model.fused.cpu.network import CPUNetwork
from model.fused.folding import Folded
from model.network.neuron import LIF
from tests.model.fused.cpu.test_network import assert_same, case, plain
from tests.model.make_golden import VARIANTS

pytestmark = pytest.mark.slow

densities = st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0])


def spikes(shape: tuple[int, ...], density: float, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy((rng.random(shape) < density).astype(np.float32))


def weights(shape: tuple[int, ...], seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(
    steps=st.integers(1, 4),
    channels=st.integers(1, 40),
    out=st.integers(1, 40),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    density=densities,
)
def test_a_sparse_convolution_is_the_convolution(
    steps: int, channels: int, out: int, height: int, width: int, density: float
) -> None:
    x = spikes((steps, height, width, channels), density).permute(0, 3, 1, 2)
    weight, bias = weights((out, channels, 3, 3)), weights((out,), seed=2)
    actual = sparse.conv3x3(weight, bias)(x)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    expected = conv2d(x.double(), weight.double(), bias.double(), padding=1)
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-4)


@given(
    steps=st.integers(1, 5),
    tokens=st.integers(1, 9),
    channels=st.integers(1, 40),
    out=st.integers(1, 40),
    density=densities,
    reals=st.booleans(),
)
def test_sparse_linear_neurons_are_the_neurons(
    steps: int, tokens: int, channels: int, out: int, density: float, reals: bool
) -> None:
    """Weights are multiples of 1/64, so that sums are exact in any order."""
    values = spikes((steps, tokens, channels), density)
    if reals:
        values *= torch.from_numpy(np.random.default_rng(3).integers(-4, 5, values.shape) / 4)
    weight, bias = (weights((out, channels)) * 16).round() / 64, weights((out,)).round() / 2
    lif = LIF()
    fired = np.empty((steps, tokens, out), np.float32)
    rows = weight.T.contiguous().numpy()
    sparse.fire_linear(values.numpy(), rows, bias.numpy(), np.float32(lif.decay), fired)
    current = values @ weight.T + bias
    assert torch.equal(torch.from_numpy(fired), lif(current * lif.tau))


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5])
def test_a_layer_takes_the_kernel_for_the_number_of_its_spikes(
    density: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def record(name: str) -> None:
        kernel = getattr(sparse, name)
        monkeypatch.setattr(sparse, name, lambda *args: (calls.append(name), kernel(*args))[1])

    record("add_weights")
    record("fire_linear")
    x = spikes((2, 6, 6, 64), density).permute(0, 3, 1, 2)
    weight, bias = weights((8, 64, 3, 3)) / 24, weights((8,), seed=2)
    current = _conv3x3(weight, bias)(x)
    torch.testing.assert_close(current, conv2d(x, weight, bias, padding=1), rtol=0, atol=1e-4)
    Linear([Folded(weight[:, :, 0, 0], bias, decay=0.5)], int8=False)(
        spikes((2, 9, 64), density), 2
    )
    assert calls == ([] if density == 0.5 else ["add_weights", "fire_linear"])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("always", [True, False])
def test_both_kernels_give_the_plain_networks_outputs(
    variant: str, always: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 1.0 if always else -1.0
    monkeypatch.setattr(sparse, "MAX_LINEAR_DENSITY", limit)
    monkeypatch.setattr(sparse, "max_conv_density", lambda channels: limit)
    network, inputs, steps = case(variant, batch=2)
    assert_same(CPUNetwork(network, 2)(inputs, steps, True), plain(network, inputs, steps))


def test_no_input_waits_for_a_compiler() -> None:
    """Few spikes and many run kernels that are compiled beforehand."""
    program = """
import torch
from model.fused.cpu import numba_kernels, sparse, winograd
from model.fused.cpu.layers import Linear, _conv3x3
from model.fused.cpu.network import compile_kernels
from model.fused.folding import Folded

kernels = [
    kernel for module in (numba_kernels, sparse, winograd)
    for kernel in vars(module).values() if hasattr(kernel, "signatures")
]
compile_kernels()
compiled = [len(kernel.signatures) for kernel in kernels]
weight, bias = torch.zeros(8, 64, 3, 3), torch.zeros(8)
for x in (torch.zeros, torch.ones):
    _conv3x3(weight, bias)(x(2, 6, 6, 64).permute(0, 3, 1, 2))
    Linear([Folded(weight[:, :, 0, 0], bias, decay=0.5)], int8=False)(x(2, 9, 64), 2)
print([len(kernel.signatures) for kernel in kernels] == compiled, sum(compiled) > 6)
"""
    command = [sys.executable, "-c", program]
    completed = subprocess.run(command, capture_output=True, text=True)
    assert completed.stdout.strip() == "True True", completed.stderr
