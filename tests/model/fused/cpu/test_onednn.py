"""oneDNN's layers are torch's, with and without oneDNN in torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from model.fused.cpu import onednn


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture(params=[True, False])
def is_available(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)


@pytest.mark.usefixtures("is_available")
@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize(("channels", "out"), [(1, 8), (2, 5), (3, 32), (12, 24)])
def test_a_convolution_is_torchs(steps: int, channels: int, out: int) -> None:
    """One kind of packed weights serves any T and size."""
    weight, bias = random(out, channels, 3, 3), random(out)
    convolve = onednn.conv3x3(weight, bias)
    for height, width in ((1, 1), (9, 14), (28, 28)):
        x = random(steps, height, width, channels).permute(0, 3, 1, 2)
        currents = convolve(x)
        expected = functional.conv2d(x, weight, bias, padding=1)
        torch.testing.assert_close(currents, expected, rtol=1e-5, atol=1e-5)
        assert currents.permute(0, 2, 3, 1).is_contiguous()


@pytest.mark.usefixtures("is_available")
@pytest.mark.parametrize(("channels", "out"), [(1, 8), (64, 256), (256, 64)])
def test_a_linear_map_is_torchs(channels: int, out: int) -> None:
    weight, bias = random(out, channels), random(out)
    multiply = onednn.linear(weight, bias)
    for tokens in (1, 49):
        x = random(3, tokens, channels)
        expected = functional.linear(x, weight, bias)
        torch.testing.assert_close(multiply(x), expected, rtol=1e-5, atol=1e-4)
