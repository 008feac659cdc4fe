"""The fused attention fires the spikes of the plain one, with heads of any width."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model.fused import folding
from model.fused.cpu.layers import Attention
from model.network.attention import SpikingAttention

pytestmark = pytest.mark.slow


@settings(max_examples=60)
@given(
    steps=st.integers(1, 5),
    # A kernel is compiled for each kind of strides: rows are apart where there are several.
    tokens=st.integers(2, 5),
    source_tokens=st.integers(2, 5),
    shape=st.sampled_from([(1, 16), (3, 16), (16, 16), (2, 128)]),  # heads, and channels of one
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    over_tokens=st.booleans(),
)
# More channels than a vector, and than a tuple of numba, has.
@example(2, 2, 3, (2, 1009), 0.2, True)
@example(2, 2, 3, (2, 1009), 0.2, False)
def test_it_is_the_plain_attention(
    steps: int, tokens: int, source_tokens: int, shape: tuple[int, int], density: float,
    over_tokens: bool,
) -> None:  # fmt: skip
    heads, width = shape
    channels = heads * width
    plain = SpikingAttention(channels, heads, "spatial" if over_tokens else "temporal")
    source_tokens = source_tokens if over_tokens else tokens
    generator = torch.Generator().manual_seed(0)
    # Parts of longer rows, as the linear maps before it are one matrix.
    q, k, v = (
        (torch.rand((steps, count, 2 * channels), generator=generator) < density)
        .float()
        .chunk(2, -1)[part]
        for count, part in ((tokens, 0), (source_tokens, 0), (source_tokens, 1))
    )
    fused = Attention(over_tokens, width, folding.attention(plain))
    by_channel = [x.transpose(1, 2)[:, None] for x in (q, k, v)]  # [T, 1, C, N]
    product = plain._spatial(*by_channel) if over_tokens else plain._temporal(*by_channel)
    expected = plain.lif(product)[:, 0].transpose(1, 2)
    assert torch.equal(fused(q, k, v, steps), expected)
