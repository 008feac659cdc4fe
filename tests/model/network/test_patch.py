"""Spiking patch splitting."""

from __future__ import annotations

import pytest
import torch

from model.config import StreamConfig
from model.network.patch import PatchSplitting


@pytest.mark.parametrize("size", [(32, 48), (17, 23)])
def test_pooling_has_the_gradients_of_torchs_max_pool(size: tuple[int, int]) -> None:
    """A training step pools by oneDNN where there is one."""
    torch.manual_seed(0)
    patch = PatchSplitting(StreamConfig(channels=3, size=size), 16)
    spikes = (torch.rand(6, 8, *size) < 0.3).float().requires_grad_()
    pooled, expected = patch._pooled(spikes), patch.pool(spikes)
    assert torch.equal(pooled, expected)
    by_output = torch.randn_like(expected)
    (gradient,) = torch.autograd.grad(pooled, spikes, by_output)
    (expected_gradient,) = torch.autograd.grad(expected, spikes, by_output)
    torch.testing.assert_close(gradient, expected_gradient)


def test_a_double_network_trains() -> None:
    patch = PatchSplitting(StreamConfig(channels=3, size=(32, 32)), 16).double()
    patch(torch.randn(2, 2, 3, 32, 32, dtype=torch.float64)).sum().backward()
    weight = patch.stages[0].conv.weight  # type: ignore[union-attr]
    assert weight.grad is not None
