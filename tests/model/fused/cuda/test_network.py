"""The fused network of CUDA gives the plain network's outputs, and its kernels compile.

Without a GPU, Triton's interpreter runs the kernels: their arithmetic, but neither compiled code
nor a GPU's rounding.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d

pytest.importorskip("triton", reason="needs triton, which there is for Linux on x86-64")

from model.config import MAX_STEPS, Attention, Config, StreamConfig
from model.engine.outputs import to_cpu
from model.engine.parity import measure_parity
from model.engine.parity_cuda import CUDAParityLayers
from model.fused import folding
from model.fused.cuda import packed_spikes
from model.fused.cuda.network import CUDANetwork
from model.fused.folding import Folded, FoldedAttention
from model.network import SCMRL, Output
from model.network.attention import SpikingAttention
from model.network.neuron import LIF
from tests.model.fused.cpu.test_network import assert_same, plain
from tests.model.make_golden import FOLDER, VARIANTS
from tests.model.network.test_scmrl import read
from tests.model.networks import lively, noise

pytestmark = pytest.mark.slow

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
#: Bytes of shared memory that a block may have, by compute capability (CUDA's programming guide).
SHARED = {86: 99 * 1024, 90: 227 * 1024}


def case(variant: str, batch: int) -> tuple[SCMRL, dict[str, Tensor], int]:
    """A variant of the network that fires, inputs for it, and T.

    Without a GPU its streams have half the height and width: the interpreter takes milliseconds for
    each tile of pixels.
    """
    config, content = read(FOLDER / f"{variant}.safetensors")
    if DEVICE.type == "cpu":
        streams = {n: _half(s) for n, s in config.streams.items()}
        config = config.model_copy(update={"streams": streams})
    steps = int(content["steps"])
    return lively(config, seed=3), noise(config, steps=steps, batch=batch, seed=1), steps


def _half(stream: StreamConfig) -> StreamConfig:
    height, width = stream.size
    return stream.model_copy(update={"size": (height - height // 2, width - width // 2)})


def fused(network: SCMRL, inputs: dict[str, Tensor], steps: int, *, half: bool = False) -> Output:
    cuda = CUDANetwork(network.to(DEVICE), half=half)
    with torch.inference_mode():
        output = cuda({name: x.to(DEVICE) for name, x in inputs.items()}, steps, True)
    network.cpu()
    return to_cpu(output)


def pack(spikes: Tensor) -> Tensor:
    """Pack spikes [T, ...]."""
    return packed_spikes.pack(spikes).to(DEVICE)


def folded(weight: Tensor, bias: Tensor) -> Folded:
    """Weights before neurons of tau = 2, on the device."""
    return Folded(weight.to(DEVICE), bias.to(DEVICE), decay=0.5)


def count_wrong(packed: Tensor, current: Tensor) -> int:
    """How many packed spikes are not what neurons make of currents [T, ...] (1/tau is in them)."""
    spikes = packed_spikes.unpack(packed, len(current)).cpu()
    # A current on the threshold may be rounded to either side of it, and later spikes follow.
    near = (_charged(current) - 1).abs().amin(0) < 1e-5
    return int(((spikes != LIF()(2 * current)).any(0) & ~near).sum())


def _charged(current: Tensor) -> Tensor:
    """Membrane potentials [T, ...] before the neurons fire."""
    v, charged = torch.zeros_like(current[0]), []
    for x in current:
        charged.append(v / 2 + x)
        v = charged[-1] * (charged[-1] < 1)
    return torch.stack(charged)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_of_the_network_is_fused(variant: str) -> None:
    batch = 1 if variant == "spatial-temporal" else 2
    network, inputs, steps = case(variant, batch)
    expected = plain(network, inputs, steps)
    assert all(float(rates.mean()) > 0 for rates in expected.firing_rates.values())
    assert_same(fused(network, inputs, steps), expected)


@pytest.mark.parametrize("variant", ["spatial-temporal", "single"])
@pytest.mark.parametrize("tau", [1.25, 4.0])
def test_another_time_constant_is_the_plain_networks(
    variant: str, tau: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.network.neuron.TAU", tau)
    network, inputs, steps = case(variant, 1)
    assert_same(fused(network, inputs, steps), plain(network, inputs, steps))


@pytest.mark.parametrize("steps", [1, 3])
def test_one_frame_equals_its_repetition(steps: int) -> None:
    stream = StreamConfig(channels=2, size=(9, 6), splitting="shallow")
    network = lively(Config(streams={"a": stream, "b": stream}, classes=4, embed_dim=16, heads=4))
    frame = noise(network.config, steps=1, batch=2)
    repeated = {name: x.repeat(steps, 1, 1, 1, 1) for name, x in frame.items()}
    one_frame = fused(network, frame, steps)
    assert torch.equal(one_frame.logits, fused(network, repeated, steps).logits)
    assert_same(one_frame, plain(network, frame, steps))


def test_a_stream_may_be_missing_at_any_batch_size() -> None:
    network, inputs, steps = case("concat", batch=3)
    only = {"visual": inputs["visual"]}
    together = fused(network, only, steps)
    torch.testing.assert_close(
        together.logits, plain(network, only, steps).logits, rtol=1e-4, atol=1e-5
    )
    alone = fused(network, {"visual": inputs["visual"][:, 1:2]}, steps)
    torch.testing.assert_close(alone.logits[0], together.logits[1], rtol=0, atol=1e-6)


@given(
    steps=st.sampled_from([1, 2, 8, 9, 16, 17, 32, 33, 64]),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    channels=st.sampled_from([1, 5, 16, 70]),
    filters=st.sampled_from([1, 17, 33]),
    side=st.sampled_from([1, 3]),
    added=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=8)
def test_fire_equals_neurons_after_a_convolution_of_any_size(
    steps: int, height: int, width: int, channels: int, filters: int, side: int, added: bool,
    seed: int,
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    shape = (steps, 2, height, width, channels)
    one, two = (torch.rand(shape, generator=generator) < 0.3 for _ in range(2))
    weight = torch.randn(filters, channels, side, side, generator=generator)
    weight *= 1e-3 if seed % 2 else 1.0  # halves have no exponent to spare
    bias = torch.rand(filters, generator=generator) * 0.6
    layer = packed_spikes.spike_weights(folded(weight, bias))
    fired = packed_spikes.fire(pack(one), layer, steps, pack(two) if added else None)
    spikes = (one.float() + two.float() * added).flatten(0, 1).permute(0, 3, 1, 2)
    current = conv2d(spikes, weight, bias, padding=side // 2).permute(0, 2, 3, 1)
    assert count_wrong(fired, current.unflatten(0, (steps, 2))) == 0
    pooled = max_pool2d(one.float().flatten(0, 1).permute(0, 3, 1, 2), 3, 2, 1)
    expected = pack(pooled.permute(0, 2, 3, 1).unflatten(0, (steps, 2)))
    assert torch.equal(packed_spikes.pool(pack(one)), expected)


def test_more_time_steps_than_an_integer_has_bits_are_refused() -> None:
    steps = MAX_STEPS
    spikes = torch.ones(steps, 1, 2, 2, 3)
    assert torch.equal(packed_spikes.unpack(pack(spikes), steps).cpu(), spikes)
    with pytest.raises(ValueError, match="steps 65: can be 1 to 64"):
        pack(torch.ones(steps + 1, 1, 2, 2, 3))


def small(attention: Attention) -> SCMRL:
    stream = StreamConfig(channels=1, size=(4, 4), splitting="shallow")
    streams = {"a": stream, "b": stream}
    return lively(Config(streams=streams, classes=3, embed_dim=8, heads=2, attention=attention))


def test_the_network_refuses_more_time_steps_by_name() -> None:
    network = small("spatial-temporal")
    with pytest.raises(ValueError, match="steps 65: can be 1 to 64"):
        fused(network, noise(network.config, steps=1, batch=1), MAX_STEPS + 1)


@pytest.mark.parametrize("over", ["spatial", "temporal"])
def test_attention_takes_the_most_time_steps(over: str) -> None:
    """Bit 63 is the sign of the integer that holds the spikes."""
    ones = torch.ones(MAX_STEPS, 1, 1, 2)
    spatial, temporal = packed_spikes.attend_over_tokens, packed_spikes.attend_over_steps
    kernel = spatial if over == "spatial" else temporal
    fired = kernel(*(pack(ones) for _ in range(3)), 1, FoldedAttention(1.0, 0.5), MAX_STEPS)
    assert torch.equal(packed_spikes.unpack(fired, MAX_STEPS).cpu(), ones)


@pytest.mark.cuda  # Triton's interpreter takes minutes
def test_the_network_runs_the_most_time_steps() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    network = small("spatial-temporal")
    frame = noise(network.config, steps=1, batch=1)
    assert_same(fused(network, frame, MAX_STEPS), plain(network, frame, MAX_STEPS))


@pytest.mark.parametrize("held", [True, False])
def test_fire_takes_any_values(held: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn((1 if held else 3, 2, 5, 4, 33), generator=generator)
    weight = torch.randn(9, 33, 3, 3, generator=generator) / 10
    bias = torch.randn(9, generator=generator)
    fired = packed_spikes.fire(
        frames.to(DEVICE), packed_spikes.value_weights(folded(weight, bias)), 3
    )
    current = conv2d(frames.flatten(0, 1).permute(0, 3, 1, 2), weight, bias, padding=1)
    current = current.permute(0, 2, 3, 1).unflatten(0, (-1, 2)).expand(3, -1, -1, -1, -1)
    assert count_wrong(fired, current) == 0


@given(
    over=st.sampled_from(["spatial", "temporal"]),
    steps=st.sampled_from([1, 3, 9, 33]),
    tokens=st.sampled_from([1, 7, 65]),
    heads=st.sampled_from([1, 3, 4]),
    width=st.sampled_from([2, 5, 16]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=8)
def test_attention_of_any_size_equals_the_published_one(
    over: str, steps: int, tokens: int, heads: int, width: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.rand((steps, 2, tokens, heads * width), generator=generator) < 0.5 for _ in range(3)
    )
    attention = SpikingAttention(heads * width, heads, over)  # type: ignore[arg-type]
    attend = attention._spatial if over == "spatial" else attention._temporal
    product = attend(*(x.float().transpose(2, 3) for x in (q, k, v))).transpose(2, 3)
    # Slices of longer rows, as projections of the same tokens are.
    rows = torch.cat([pack(q), pack(k), pack(v)], 2)
    kernel = (
        packed_spikes.attend_over_tokens if over == "spatial" else packed_spikes.attend_over_steps
    )
    fired = kernel(*rows.chunk(3, 2), heads, FoldedAttention(0.3, 0.5), steps)
    assert count_wrong(fired, product / 0.25 * 0.3) == 0


def test_weights_in_two_halves_have_float32s_precision_but_for_two_pack() -> None:
    weight = torch.randn(8, 16, 3, 3) * torch.logspace(-6, 6, 8).reshape(-1, 1, 1, 1)
    layer = packed_spikes.spike_weights(Folded(weight, torch.zeros(8), 0.5))
    assert layer.low is not None
    sums = (layer.high.double() + layer.low.double()) * layer.unit.double()
    exact = weight.flatten(2).permute(2, 1, 0).double()
    greatest = exact.abs().amax((0, 1))
    assert ((sums - exact).abs() <= greatest * 2.0**-22).all()
    silent = packed_spikes.spike_weights(Folded(torch.zeros(2, 3, 1), torch.zeros(2), 0.5))
    assert torch.isfinite(silent.high).all()
    assert torch.isfinite(silent.unit).all()


def test_folding_scales_currents_by_tau_and_threshold() -> None:
    network, _, _ = case("spatial", batch=1)
    layer = network.patch["audio"].position  # type: ignore[union-attr]
    folded = folding.stage(layer)  # type: ignore[arg-type]
    spikes = (torch.rand(3, folded.weight.shape[1], 5, 5) < 0.4).float()
    with torch.inference_mode():
        current = layer.norm(layer.conv(spikes))  # type: ignore[union-attr,operator]
    unit = 2 * layer.lif.v_threshold  # type: ignore[union-attr]
    torch.testing.assert_close(
        conv2d(spikes, folded.weight, folded.bias, padding=1), current / unit, rtol=1e-4, atol=1e-5
    )


def test_parity_counts_the_spikes_that_differ() -> None:
    network, inputs, steps = case("concat", batch=2)
    network.to(DEVICE)
    moved = [{name: x.to(DEVICE) for name, x in inputs.items()}]
    parity = measure_parity(network, CUDAParityLayers(CUDANetwork(network)), moved, steps)
    assert parity.samples == 2
    assert parity.spikes > 1_000
    assert parity.tokens > 0
    assert (parity.flips, parity.token_flips, parity.classes) == (0, 0, 0)
    assert parity.difference < 1e-5
    other = CUDAParityLayers(CUDANetwork(lively(network.config, seed=8).to(DEVICE)))
    one = [{name: x[:, :1] for name, x in moved[0].items()}]
    parity = measure_parity(network, other, one, steps)
    assert parity.flips > parity.spikes / 100
    assert parity.token_flips > parity.tokens / 100


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The kernels of two networks for each card, down to machine code."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    cache = str(tmp_path_factory.mktemp("triton"))
    completed = subprocess.run(
        [sys.executable, "-m", "tests.model.compile_kernels", *map(str, SHARED)],
        env=environment | {"TRITON_CACHE_DIR": cache}, capture_output=True, text=True,
    )  # fmt: skip
    assert completed.returncode == 0, completed.stderr[-3000:]
    return [json.loads(line) for line in completed.stdout.splitlines()]


@pytest.mark.parametrize("capability", SHARED)
def test_kernels_compile_for_a_card(capability: int, compiled: list[dict[str, Any]]) -> None:
    """That they run is tested on a card."""
    kernels = [kernel for kernel in compiled if kernel["capability"] == capability]
    names = {
        "fire", "pool", "unpack", "attend_over_tokens", "attend_over_steps", "complement",
        "summarize",
    }  # fmt: skip
    assert {kernel["kernel"] for kernel in kernels} == names
    for kernel in kernels:
        assert kernel["machine_code"] > 0
        assert kernel["shared"] <= SHARED[capability], kernel
        assert kernel["products"] or kernel["kernel"] not in ("fire", "attend_over_tokens")


@pytest.mark.parametrize("capability", SHARED)
def test_half_precision_takes_half_the_products(
    capability: int, compiled: list[dict[str, Any]]
) -> None:
    """Of each layer of spikes; layers of real values stay as they are."""
    fire = [k for k in compiled if (k["kernel"], k["capability"]) == ("fire", capability)]
    products = {
        json.dumps(kernel["constants"], sort_keys=True): kernel["products"] for kernel in fire
    }
    halves = [kernel for kernel in fire if kernel["constants"]["HALF"]]
    assert len(halves) > 2
    for kernel in halves:
        both = json.dumps(kernel["constants"] | {"HALF": False}, sort_keys=True)
        assert not kernel["constants"]["VALUES"]
        assert kernel["products"] == products[both] / 2
