"""Folded weights give the currents of batch norm and neuron, whatever the norm's statistics."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from model.fused import folding
from model.network.attention import Projection
from model.network.neuron import LIF
from model.network.patch import Stage


def randomised(layer: Projection | Stage, seed: int, variance: float, threshold: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    norm = layer.norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    for x in (norm.weight.data, norm.bias.data, norm.running_mean):
        x.copy_(torch.randn(x.shape, generator=generator))
    spread = 1 + torch.rand(norm.running_var.shape, generator=generator)
    norm.running_var.copy_(variance * spread)
    layer.lif = LIF(threshold)


@given(
    seed=st.integers(0, 1000),
    variance=st.sampled_from([1e-9, 1e-6, 1e-5, 1e-3, 1.0, 1e3]),
    threshold=st.sampled_from([0.05, 1.0, 3.0]),
    kind=st.sampled_from(["stage", "projection", "with bias"]),
)
@settings(max_examples=60)
def test_folding_is_batch_norm_over_tau_and_threshold(
    seed: int, variance: float, threshold: float, kind: str
) -> None:
    """Variances below the norm's epsilon too: dead channels have those."""
    layer = Stage(3, 4) if kind == "stage" else Projection(3, 4, bias=kind == "with bias")
    randomised(layer, seed, variance, threshold)
    shape = (2, 3, 5, 5) if kind == "stage" else (2, 3, 7)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()
    layer = layer.double().eval()
    fold = folding.stage(layer) if isinstance(layer, Stage) else folding.projection(layer)
    assert fold.decay == 0.5
    with torch.no_grad():
        expected = layer.norm(layer.conv(x)) / (layer.lif.tau * threshold)
        convolve = nn.functional.conv2d if kind == "stage" else nn.functional.conv1d
        padding = 1 if kind == "stage" else 0
        folded = convolve(x, fold.weight.double(), fold.bias.double(), padding=padding)
    scale = float(expected.abs().max())
    torch.testing.assert_close(folded, expected, rtol=1e-5, atol=1e-5 * scale)


def test_maps_whose_neurons_have_two_time_constants_cannot_be_concatenated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    published = folding.projection(Projection(3, 4).eval())
    together = folding.concatenate([published, published])
    assert together.weight.shape == (8, 3)
    assert together.bias.shape == (8,)
    monkeypatch.setattr("model.network.neuron.TAU", 4.0)
    slower = folding.projection(Projection(3, 4).eval())
    with pytest.raises(ValueError, match=r"decays \[0.5, 0.75\] of neurons of concatenated maps"):
        folding.concatenate([published, slower])


@pytest.mark.parametrize(("constant", "value"), [("v_reset", -1.0), ("decay_input", False)])
def test_a_neuron_that_no_kernel_has_is_refused(constant: str, value: float) -> None:
    layer = Projection(3, 4).eval()
    setattr(layer.lif, constant, value)
    with pytest.raises(ValueError, match=f"{constant}={value}.* can be fused"):
        folding.projection(layer)
