"""Encoding of values as spikes: direct, rate and latency."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import encoding as published

from model.encoding import encode


def test_direct_encoding_repeats_a_single_step_without_copying() -> None:
    still = torch.rand(1, 3, 4, 5)
    held = encode(still, 4, "direct")
    assert held.shape == (4, 3, 4, 5)
    assert held.stride(0) == 0
    assert all(torch.equal(step, still[0]) for step in held)


def test_direct_encoding_returns_a_sequence_unchanged() -> None:
    moving = torch.rand(4, 3, 4, 5)
    assert torch.equal(encode(moving, 4, "direct"), moving)


def test_the_firing_rate_of_rate_encoding_is_the_value() -> None:
    values = torch.tensor([[0.0, 0.1, 0.5, 0.9, 1.0]])
    rates = encode(values, 20_000, "rate").mean(0)
    assert rates[0] == 0
    assert rates[4] == 1
    torch.testing.assert_close(rates, values[0], rtol=0, atol=0.015)


def test_rate_encoding_follows_a_sequence_step_by_step() -> None:
    spikes = encode(torch.tensor([[0.0], [1.0], [0.0], [1.0]]), 4, "rate")
    assert spikes.flatten().tolist() == [0, 1, 0, 1]


def test_the_seed_alone_determines_the_spikes() -> None:
    values = torch.full((1, 1, 8, 8), 0.5)
    first = encode(values, 8, "rate", seed=3)
    torch.rand(7)
    assert torch.equal(encode(values, 8, "rate", seed=3), first)
    assert not torch.equal(encode(values, 8, "rate", seed=4), first)


@given(
    values=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20), steps=st.integers(1, 12)
)
@settings(max_examples=60, deadline=None)
def test_latency_encoding_equals_spikingjellys(values: list[float], steps: int) -> None:
    x = torch.tensor(values)
    spikes = encode(x[None], steps, "latency")
    theirs = published.LatencyEncoder(steps).single_step_encode(x)
    assert torch.equal(spikes, theirs)
    assert (spikes.sum(0) == 1).all()


@pytest.mark.parametrize("encoding", ["rate", "latency"])
def test_values_out_of_range_are_clipped(encoding: str) -> None:
    spikes = encode(torch.tensor([[-3.0, 7.0]]), 5, encoding)  # type: ignore[arg-type]
    clipped = encode(torch.tensor([[0.0, 1.0]]), 5, encoding)  # type: ignore[arg-type]
    assert torch.equal(spikes, clipped)


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="3 time steps; expected 1 or 4"):
        encode(torch.zeros(3, 1, 4, 4), 4, "direct")
    with pytest.raises(ValueError, match="morse"):
        encode(torch.zeros(1, 1, 4, 4), 4, "morse")  # type: ignore[arg-type]
