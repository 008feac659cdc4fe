"""Encoding of values as spikes: direct, rate and latency."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import encoding as published

from model.encoding import encode

RNG = np.random.default_rng(0)


def test_direct_encoding_repeats_a_single_step_without_copying() -> None:
    still = RNG.random((1, 3, 4, 5), np.float32)
    repeated = encode(still, 4, "direct")
    assert repeated.shape == (4, 3, 4, 5)
    assert np.shares_memory(repeated, still)
    assert all((step == still[0]).all() for step in repeated)


def test_direct_encoding_returns_a_sequence_unchanged() -> None:
    moving = RNG.random((4, 3, 4, 5), np.float32)
    assert (encode(moving, 4, "direct") == moving).all()


def test_the_firing_rate_of_rate_encoding_is_the_value() -> None:
    values = np.float32([[0.0, 0.1, 0.5, 0.9, 1.0]])
    rates = encode(values, 20_000, "rate").mean(0)
    assert rates[0] == 0
    assert rates[4] == 1
    assert rates == pytest.approx(values[0], abs=0.015)


def test_rate_encoding_follows_a_sequence_step_by_step() -> None:
    spikes = encode(np.float32([[0.0], [1.0], [0.0], [1.0]]), 4, "rate")
    assert spikes.flatten().tolist() == [0, 1, 0, 1]


@given(seed=st.integers(0, 2**32 - 1), steps=st.integers(1, 12), size=st.integers(1, 300))
@settings(max_examples=60)
def test_the_seed_alone_decides_the_spikes_of_rate_encoding_as_with_torch(
    seed: int, steps: int, size: int
) -> None:
    values = RNG.random((1, size), np.float32)
    drawn = torch.rand((steps, size), generator=torch.Generator().manual_seed(seed))
    expected = (drawn < torch.from_numpy(values)).float().numpy()
    assert (encode(values, steps, "rate", seed=seed) == expected).all()


@given(
    values=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20), steps=st.integers(1, 12)
)
@settings(max_examples=60)
def test_latency_encoding_equals_spikingjellys(values: list[float], steps: int) -> None:
    x = np.float32(values)
    spikes = encode(x[None], steps, "latency")
    theirs = published.LatencyEncoder(steps).single_step_encode(torch.from_numpy(x))
    assert (spikes == theirs.numpy()).all()
    assert (spikes.sum(0) == 1).all()


@pytest.mark.parametrize("encoding", ["rate", "latency"])
def test_values_out_of_range_are_clipped(encoding: str) -> None:
    spikes = encode(np.float32([[-3.0, 7.0]]), 5, encoding)  # type: ignore[arg-type]
    clipped = encode(np.float32([[0.0, 1.0]]), 5, encoding)  # type: ignore[arg-type]
    assert (spikes == clipped).all()


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="3 time steps; expected 1 or 4"):
        encode(np.zeros((3, 1, 4, 4), np.float32), 4, "direct")
    with pytest.raises(ValueError, match="morse"):
        encode(np.zeros((1, 1, 4, 4), np.float32), 4, "morse")  # type: ignore[arg-type]
