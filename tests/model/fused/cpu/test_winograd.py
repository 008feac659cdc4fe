"""Winograd's convolution is the convolution: any shape, any border, and nearly as exact."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import conv2d

from model.fused.cpu import winograd


def spikes(steps: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """[T, C, H, W], channels last, of which a third fires."""
    rng = np.random.default_rng(seed)
    fired = (rng.random((steps, height, width, channels)) < 0.3).astype(np.float32)
    return torch.from_numpy(fired).permute(0, 3, 1, 2)


def layer(channels: int, out: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn((out, channels, 3, 3), generator=generator) / (9 * channels) ** 0.5
    return weight, torch.randn(out, generator=generator)


@settings(max_examples=60)
@given(
    steps=st.integers(1, 9),
    channels=st.integers(1, 40),
    out=st.integers(1, 40),
    height=st.integers(1, 19),
    width=st.integers(1, 19),
)
def test_it_is_the_convolution(
    steps: int, channels: int, out: int, height: int, width: int
) -> None:
    x, (weight, bias) = spikes(steps, channels, height, width), layer(channels, out)
    expected = conv2d(x.double(), weight.double(), bias.double(), padding=1)
    actual = winograd.conv3x3(weight, bias)(x)
    assert actual.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-5)


def test_it_rounds_a_few_times_as_much_as_a_plain_sum() -> None:
    """Its rounding errors change about one spike in a million, not one in a thousand."""
    x, (weight, bias) = spikes(4, 256, 16, 16), layer(256, 64)
    exact = conv2d(x.double(), weight.double(), bias.double(), padding=1)

    def error(values: Tensor) -> float:
        return float((values - exact).square().mean().sqrt())

    plain = error(conv2d(x, weight, bias, padding=1))
    assert error(winograd.conv3x3(weight, bias)(x)) < 6 * plain


def test_a_step_is_the_same_whatever_comes_with_it() -> None:
    x, (weight, bias) = spikes(7, 32, 9, 10), layer(32, 8)
    convolved = winograd.conv3x3(weight, bias)
    alone = torch.cat([convolved(x[t : t + 1]) for t in range(len(x))])
    torch.testing.assert_close(convolved(x), alone, rtol=0, atol=2e-6)
