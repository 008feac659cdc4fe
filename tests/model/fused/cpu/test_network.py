"""The fused network of CPUs gives the plain network's outputs at any batch size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

from model.checkpoint import import_published
from model.config import Config, StreamConfig
from model.fused.cpu import int8_kernels, numba_kernels
from model.fused.cpu.layers import Linear
from model.fused.cpu.network import CPUNetwork
from model.fused.folding import Folded
from model.network import SCMRL, Output
from model.network.neuron import LIF
from tests.model.make_golden import FOLDER, VARIANTS
from tests.model.network.test_golden import CASES, _config, _inputs
from tests.model.network.test_scmrl import read
from tests.model.networks import lively, noise

pytestmark = pytest.mark.slow


def plain(network: SCMRL, inputs: dict[str, Tensor], steps: int) -> Output:
    repeated = {name: x.expand(steps, *x.shape[1:]) for name, x in inputs.items()}
    with torch.inference_mode():
        output: Output = network(repeated, attention=True)
        return output


def case(variant: str, batch: int) -> tuple[SCMRL, dict[str, Tensor], int]:
    """A variant of the network that fires, inputs for it, and T."""
    config, content = read(FOLDER / f"{variant}.safetensors")
    steps = int(content["steps"])
    return lively(config, seed=3), noise(config, steps=steps, batch=batch, seed=1), steps


def assert_same(actual: Output, expected: Output) -> None:
    """Equal spikes give equal residuals and maps; the head's sums may be in another order."""
    torch.testing.assert_close(actual.logits, expected.logits, rtol=1e-4, atol=1e-5)
    assert set(actual.residuals) == set(expected.residuals)
    for name, residual in expected.residuals.items():
        torch.testing.assert_close(actual.residuals[name], residual, rtol=0, atol=1e-6)
    assert set(actual.firing_rates) == set(expected.firing_rates)
    for name, rate in expected.firing_rates.items():
        torch.testing.assert_close(actual.firing_rates[name], rate, rtol=0, atol=1e-6)
    assert actual.attention is not None
    assert expected.attention is not None
    assert set(actual.attention) == set(expected.attention)
    for name, maps in expected.attention.items():
        torch.testing.assert_close(actual.attention[name].spatial, maps.spatial)
        torch.testing.assert_close(actual.attention[name].temporal, maps.temporal)
    assert set(actual.token_logits) == set(expected.token_logits)
    for name, logits in expected.token_logits.items():
        torch.testing.assert_close(actual.token_logits[name], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_of_the_network_is_fused(variant: str) -> None:
    network, inputs, steps = case(variant, batch=3)
    assert_same(CPUNetwork(network, 2)(inputs, steps, True), plain(network, inputs, steps))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("tau", [1.25, 4.0])
def test_another_time_constant_is_the_plain_networks(
    variant: str, tau: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where kernels that were compiled for the published one are cached on disk."""
    network, inputs, steps = case(variant, batch=2)
    published = plain(network, inputs, steps)
    monkeypatch.setattr("model.network.neuron.TAU", tau)
    network, inputs, steps = case(variant, batch=2)
    expected = plain(network, inputs, steps)
    assert all(rate.all() for rate in expected.firing_rates.values())
    assert not torch.allclose(expected.logits, published.logits, atol=1e-2)
    assert_same(CPUNetwork(network, 2)(inputs, steps, True), expected)


@pytest.mark.parametrize("tau", [1.25, 2.0, 4.0])
def test_int8_neurons_have_the_time_constant_too(
    tau: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of 127 levels are not rounded, so that the spikes are those of the neuron itself."""
    monkeypatch.setattr("model.network.neuron.TAU", tau)
    lif, generator = LIF(), torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (9, 16), generator=generator).float()
    weight[:, 0] = 127
    weight /= 127 * 4
    bias = torch.rand(9, generator=generator)
    spikes = torch.randint(0, 2, (6, 50, 16), generator=generator).float()
    fired = Linear([Folded(weight, bias, lif.decay)], int8=True)(spikes, 6)
    current = spikes @ weight.T + bias
    assert torch.equal(fired, lif(current * tau))
    assert 0.05 < fired.mean() < 0.95


@pytest.mark.parametrize("name", CASES)
def test_published_cases_have_parity(shared: Path, name: str) -> None:
    folder = shared / "golden" / name
    config, steps = _config(folder)
    network = import_published(load_file(folder / "state_dict.safetensors"), config)
    inputs = _inputs(folder / "inputs.safetensors", steps)
    actual = CPUNetwork(network, 2)(inputs, steps, True)
    golden = load_file(folder / "golden.safetensors")
    torch.testing.assert_close(actual.logits, golden["logits"], rtol=1e-4, atol=1e-4)
    assert_same(actual, plain(network, inputs, steps))


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_one_frame_equals_its_repetition(steps: int) -> None:
    stream = StreamConfig(channels=2, size=(33, 18))
    network = lively(Config(streams={"a": stream, "b": stream}, classes=4, embed_dim=16, heads=4))
    frame = noise(network.config, steps=1, batch=2)
    fused = CPUNetwork(network, 2)
    repeated = {name: x.repeat(steps, 1, 1, 1, 1) for name, x in frame.items()}
    assert torch.equal(fused(frame, steps, False).logits, fused(repeated, steps, False).logits)
    assert_same(fused(frame, steps, True), plain(network, frame, steps))


def test_a_sample_fires_the_same_spikes_at_any_batch_size() -> None:
    stream = StreamConfig(channels=3, size=(32, 32))
    network = lively(Config(streams={"a": stream, "b": stream}, classes=4, embed_dim=64))
    inputs = noise(network.config, steps=4, batch=9)
    fused = CPUNetwork(network, 2)
    together = fused(inputs, 4, False)
    for sample in range(9):
        alone = fused({n: x[:, sample : sample + 1] for n, x in inputs.items()}, 4, False)
        torch.testing.assert_close(alone.logits[0], together.logits[sample], rtol=0, atol=1e-6)
        for name, residual in together.residuals.items():
            assert torch.equal(alone.residuals[name][:, 0], residual[:, sample])


@given(
    steps=st.integers(1, 5),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    channels=st.integers(1, 5),
    held=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80)
def test_fire_all_equals_neuron_then_max_pool(
    steps: int, rows: int, columns: int, channels: int, held: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # Multiples of 1/4 meet the threshold exactly, where >= matters.
    current = rng.integers(-4, 12, (1 if held else steps, rows, columns, channels)) / 4
    pooled = np.empty((steps, (rows + 1) // 2, (columns + 1) // 2, channels), np.uint8)
    numba_kernels.fire_all((current / 2).astype(np.float32), np.float32(0.5), True, pooled)
    x = torch.from_numpy(current.astype(np.float32)).permute(0, 3, 1, 2)
    spikes = LIF()(x.expand(steps, -1, -1, -1))
    expected = max_pool2d(spikes, 3, stride=2, padding=1)
    assert np.array_equal(pooled, expected.permute(0, 2, 3, 1).numpy())


def test_int8_kernels_equal_float_ones_with_rounded_weights() -> None:
    """Spikes are bytes without loss and sums are exact, so that nothing else changes."""
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(8, 4, 3, 3, generator=generator), torch.randn(8, generator=generator)
    spikes = torch.randint(0, 3, (2, 4, 9, 7), generator=generator, dtype=torch.uint8)
    quantised, scale, _ = int8_kernels.quantise(weight)
    assert quantised.abs().amax((1, 2, 3)).tolist() == [127] * 8
    rounded = quantised.float() * scale.reshape(-1, 1, 1, 1)
    assert (rounded - weight).abs().max() <= 0.51 * scale.max()
    last = spikes.contiguous(memory_format=torch.channels_last)
    currents = int8_kernels.conv3x3(weight, bias)(last)
    expected = conv2d(spikes.float(), rounded, bias, padding=1)
    torch.testing.assert_close(currents, expected, rtol=1e-5, atol=1e-5)
    flat = rounded[:, :, 0, 0]
    tokens = spikes.reshape(2, -1, 4).float()
    currents = int8_kernels.linear(flat, bias)(tokens)
    torch.testing.assert_close(currents, tokens @ flat.T + bias, rtol=1e-2, atol=3e-2)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_runs_with_int8_at_any_batch_size(variant: str) -> None:
    network, inputs, steps = case(variant, batch=4)
    fused = CPUNetwork(network, 2, int8=True)
    output = fused(inputs, steps, True)
    expected = plain(network, inputs, steps)
    assert output.logits.shape == expected.logits.shape
    # Rounded weights move spikes, here those of a random network near its thresholds.
    assert (output.logits - expected.logits).abs().mean() < 0.5 * expected.logits.std()
    for index in range(4):
        alone = {name: x[:, index : index + 1] for name, x in inputs.items()}
        torch.testing.assert_close(
            fused(alone, steps, False).logits[0], output.logits[index], rtol=1e-5, atol=1e-5
        )


def test_kernels_are_compiled_where_no_folder_can_cache_them() -> None:
    """As for a user without a home directory, with packages that they cannot write to."""
    program = """
import numba.core.caching
numba.core.caching.CacheImpl._locator_classes = []
import numpy as np
from model.fused.cpu import numba_kernels
current = np.float32([[1.5, 0.5], [0.0, 0.8]])
numba_kernels.fire(current, np.float32(0.5))
print(current.tolist())
"""
    completed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert completed.stdout.strip() == "[[1.0, 0.0], [0.0, 1.0]]", completed.stderr
    assert "cannot be cached (NUMBA_CACHE_DIR)" in completed.stderr
