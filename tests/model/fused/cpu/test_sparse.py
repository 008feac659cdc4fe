"""Layers that skip zeros give what dense ones give, at any density and shape."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from model.fused.cpu import sparse
from model.fused.cpu.network import CPUNetwork
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
    decay = np.float32(lif.decay)
    assert sparse.fire_linear(values.numpy(), 1.0, rows, bias.numpy(), decay, fired)
    current = values @ weight.T + bias
    assert torch.equal(torch.from_numpy(fired), lif(current * lif.tau))


@given(density=densities, limit=st.sampled_from([0.0, 0.1, 1.0]))
def test_a_linear_map_of_more_values_is_left_to_the_dense_kernel(
    density: float, limit: float
) -> None:
    values = spikes((3, 7, 40), density).numpy()
    fired = np.full((3, 7, 5), 9, np.float32)
    rows, bias = weights((40, 5)).numpy(), np.zeros(5, np.float32)
    is_few = values.mean() <= limit
    assert sparse.fire_linear(values, limit, rows, bias, np.float32(0.5), fired) == is_few
    assert (fired != 9).all() == is_few


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
    """Few spikes and many, one step and one token run kernels that are compiled beforehand."""
    program = """
from dataclasses import replace
from model.config import StreamConfig
from model.engine.bench import CASES, inputs, network
from model.engine.engine import Engine
from model.fused.cpu import attention, lookup, numba_kernels, sparse, vectors

kernels = [
    kernel for module in (attention, lookup, numba_kernels, sparse, vectors)
    for kernel in vars(module).values() if hasattr(kernel, "signatures")
]
published = CASES["urbansound8k_av"]
stream = StreamConfig(channels=1, size=(16, 16))
config = published.config.model_copy(update={"streams": {"a": stream, "b": stream}})
cases = (replace(published, config=config, held=frozenset()), published)
engines = [Engine(network(case), "cpu") for case in cases]
for engine in engines:
    assert engine.use_fastest(["fused"], published.steps)
compiled = [len(kernel.signatures) for kernel in kernels]
for case, engine in zip(cases, engines):
    for scale in (0.0, 0.1, 1.0, 10.0):
        for steps in (1, case.steps):
            frames = inputs(replace(case, steps=steps), 2, seed=1)
            engine.run({name: scale * x for name, x in frames.items()}, steps)
print(
    [len(kernel.signatures) for kernel in kernels] == compiled,
    all(kernel.signatures for kernel in (sparse.fire_convolution, lookup.fire_convolution)),
)
"""
    command = [sys.executable, "-c", program]
    completed = subprocess.run(command, capture_output=True, text=True)
    assert completed.stdout.strip() == "True True", completed.stderr
