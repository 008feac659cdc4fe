"""The fused network of CUDA with weights in half precision, in Triton's interpreter or on a GPU."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv2d

pytest.importorskip("triton", reason="needs triton, which there is for Linux on x86-64")

from model.fused.cuda import packed_spikes
from tests.model.fused.cpu.test_network import plain
from tests.model.fused.cuda.test_network import case, count_wrong, folded, fused, pack

pytestmark = pytest.mark.slow


@given(
    steps=st.sampled_from([1, 3, 9, 33]),
    channels=st.sampled_from([1, 16, 70]),
    filters=st.sampled_from([1, 17]),
    side=st.sampled_from([1, 3]),
    added=st.booleans(),
    exponent=st.sampled_from([-20, 0, 20]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=6)
def test_one_half_of_each_weight_is_the_weight_rounded_to_half_precision(
    steps: int, channels: int, filters: int, side: int, added: bool, exponent: int, seed: int
) -> None:
    """At any magnitude of a filter's weights: halves have no exponent to spare."""
    generator = torch.Generator().manual_seed(seed)
    shape = (steps, 1, 4, 3, channels)
    one, two = (torch.rand(shape, generator=generator) < 0.3 for _ in range(2))
    weight = torch.randn(filters, channels, side, side, generator=generator)
    bias = torch.rand(filters, generator=generator) * 0.6
    scale = torch.ldexp(torch.tensor(1.0), torch.tensor(exponent))
    rounded = weight.half().float() * scale
    half = packed_spikes.spike_weights(folded(weight * scale, bias), half=True)
    assert half.low is None
    fired = packed_spikes.fire(pack(one), half, steps, pack(two) if added else None)
    whole = packed_spikes.spike_weights(folded(rounded, bias))
    exact = packed_spikes.fire(pack(one), whole, steps, pack(two) if added else None)
    assert torch.equal(fired, exact)
    spikes = (one.float() + two.float() * added).flatten(0, 1).permute(0, 3, 1, 2)
    current = conv2d(spikes, rounded, bias, padding=side // 2).permute(0, 2, 3, 1)
    assert count_wrong(fired, current.unflatten(0, (steps, 1))) == 0


@pytest.mark.parametrize("half", [False, True])
def test_only_half_precision_rounds(half: bool) -> None:
    """The nearest half is the threshold, which the weight itself does not reach."""
    weight = torch.full((1, 1, 1, 1), 1 - 2.0**-13)
    layer = packed_spikes.spike_weights(folded(weight, torch.zeros(1)), half=half)
    fired = packed_spikes.fire(pack(torch.ones(1, 1, 1, 1, 1)), layer, 1)
    assert int(fired) == int(half)


@pytest.mark.parametrize("variant", ["single", "shallow", "concat", "temporal", "no-cross"])
def test_every_variant_runs_in_half_precision(variant: str) -> None:
    network, inputs, steps = case(variant, 1)
    expected = plain(network, inputs, steps)
    output = fused(network, inputs, steps, half=True)
    assert output.logits.shape == expected.logits.shape
    for name, rate in expected.firing_rates.items():
        # Rounded weights move spikes at their thresholds, here those of a random network.
        torch.testing.assert_close(output.firing_rates[name], rate, rtol=0.05, atol=0.01)
    assert (output.attention is None) == (expected.attention is None)
