"""Spiking attention: what is attended, how heads and steps are mixed, and what the maps mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from model.network.attention import CCSSA, Maps, SpikingAttention

Over = Literal["spatial", "temporal"]
STEPS, BATCH, CHANNELS, TOKENS = 5, 2, 8, 6


@dataclass(frozen=True)
class Run:
    """One attention, run once: spikes q, k, v and what its neuron is given, all [T, B, C, N]."""

    q: Tensor
    k: Tensor
    v: Tensor
    attended: Tensor
    maps: Maps

    def head(self, x: Tensor, index: int, heads: int) -> Tensor:
        """One head's channels [T, B, d, N]."""
        dim = CHANNELS // heads
        return x[:, :, index * dim : (index + 1) * dim]


def attention(over: Over, heads: int, seed: int = 0) -> SpikingAttention:
    """An attention whose projections fire about every other time."""
    torch.manual_seed(seed)
    module = SpikingAttention(CHANNELS, heads, over).eval()
    for projection in (module.query, module.key, module.value):
        torch.nn.init.uniform_(projection.norm.bias, 0.5, 1.5)
    return module


def tokens(count: int = TOKENS, seed: int = 0) -> Tensor:
    """Patch embeddings [T, B, C, N] of 0, 1 and 2."""
    values = np.random.RandomState(seed).randint(0, 3, (STEPS, BATCH, CHANNELS, count))
    return torch.from_numpy(values).float()


def run(module: SpikingAttention, target: Tensor, source: Tensor) -> Run:
    recorded: dict[str, Tensor] = {}
    for name in ("query", "key", "value"):
        getattr(module, name).register_forward_hook(
            lambda _, inputs, output, name=name: recorded.__setitem__(name, output)
        )
    module.lif.register_forward_pre_hook(
        lambda _, inputs: recorded.__setitem__("attended", inputs[0])
    )
    with torch.no_grad():
        _, maps = module(target, source, True)
    for name in ("query", "key", "value"):
        assert 0.05 < recorded[name].mean() < 0.95
    return Run(recorded["query"], recorded["key"], recorded["value"], recorded["attended"], maps)


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_spatial_attention_is_a_quarter_of_q_k_v_over_tokens(heads: int) -> None:
    """Whatever the size of a head, without softmax, and with other numbers of tokens."""
    recorded = run(attention("spatial", heads), tokens(), tokens(9, seed=1))
    for head in range(heads):
        q, k, v = (recorded.head(x, head, heads) for x in (recorded.q, recorded.k, recorded.v))
        attended = recorded.head(recorded.attended, head, heads)
        for t in range(STEPS):
            for b in range(BATCH):
                expected = 0.25 * (q[t, b].T @ k[t, b]) @ v[t, b].T  # [N_target, d]
                assert torch.equal(attended[t, b], expected.T)


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_temporal_attention_mixes_heads_and_steps_as_published(heads: int) -> None:
    """Channel c of step t is entry t C + c of the flattened (heads, T, d)."""
    recorded = run(attention("temporal", heads), tokens(), tokens(seed=1))
    for n in range(TOKENS):
        for b in range(BATCH):
            by_head = []
            for head in range(heads):
                q, k, v = (
                    recorded.head(x, head, heads)[:, b, :, n]
                    for x in (recorded.q, recorded.k, recorded.v)
                )
                by_head.append(0.25 * (q @ k.T) @ v)  # [T, d]
            flat = torch.stack(by_head).flatten()
            for t in range(STEPS):
                for c in range(CHANNELS):
                    assert recorded.attended[t, b, c, n] == flat[t * CHANNELS + c]


def test_the_mixing_is_not_the_plain_merging_of_heads() -> None:
    x = torch.arange(2 * 3 * 4.0).reshape(1, 1, 2, 3, 4)  # [N, B, heads, T, d]
    mixed = SpikingAttention._mix_heads_and_steps(x)[:, 0, :, 0]  # [T, C]
    assert torch.equal(mixed, torch.arange(24.0).reshape(3, 8))
    assert not torch.equal(mixed, x[0, 0].transpose(0, 1).reshape(3, 8))


@pytest.mark.parametrize("heads", [1, 4])
def test_the_spatial_map_is_the_mean_over_steps_heads_and_target_tokens(heads: int) -> None:
    recorded = run(attention("spatial", heads), tokens(), tokens(9, seed=1))
    weights = torch.zeros(BATCH, STEPS, heads, TOKENS, 9)
    for head in range(heads):
        q, k = recorded.head(recorded.q, head, heads), recorded.head(recorded.k, head, heads)
        for t in range(STEPS):
            for b in range(BATCH):
                weights[b, t, head] = 0.25 * q[t, b].T @ k[t, b]
    assert recorded.maps.spatial is not None
    torch.testing.assert_close(recorded.maps.spatial, weights.mean((1, 2, 3)))
    assert recorded.maps.temporal is None


@pytest.mark.parametrize("heads", [1, 4])
def test_the_temporal_map_is_the_mean_over_heads_and_tokens(heads: int) -> None:
    recorded = run(attention("temporal", heads), tokens(), tokens(seed=1))
    weights = torch.zeros(BATCH, heads, TOKENS, STEPS, STEPS)
    for head in range(heads):
        q, k = recorded.head(recorded.q, head, heads), recorded.head(recorded.k, head, heads)
        for n in range(TOKENS):
            for b in range(BATCH):
                weights[b, head, n] = 0.25 * q[:, b, :, n] @ k[:, b, :, n].T
    assert recorded.maps.temporal is not None
    torch.testing.assert_close(recorded.maps.temporal, weights.mean((1, 2)))
    assert recorded.maps.spatial is None


def test_a_temporal_map_goes_from_the_step_that_looks_to_the_step_looked_at() -> None:
    module = attention("temporal", 2)
    for projection in (module.query, module.key):
        torch.nn.init.zeros_(projection.norm.bias)  # no input, no spike
        torch.nn.init.constant_(projection.conv.weight, 1.0)
    target, source = torch.zeros(2, STEPS, BATCH, CHANNELS, TOKENS)
    target[3], source[1] = 1, 1
    with torch.no_grad():
        temporal = module(target, source, True)[1].temporal
    assert temporal is not None
    assert [tuple(at) for at in temporal[0].nonzero().tolist()] == [(3, 1)]


def test_spatial_attention_looks_at_its_own_step_only() -> None:
    module = attention("spatial", 2)
    target, source = tokens(), tokens(seed=1)
    other = source.clone()
    other[-1] = 2 - other[-1]
    first, second = run(module, target, source), run(module, target, other)
    assert torch.equal(first.attended[:-1], second.attended[:-1])
    assert not torch.equal(first.attended[-1], second.attended[-1])


def test_temporal_attention_looks_at_its_own_token_only() -> None:
    module = attention("temporal", 2)
    target, source = tokens(), tokens(seed=1)
    other = source.clone()
    other[..., 0] = 2 - other[..., 0]
    first, second = run(module, target, source), run(module, target, other)
    assert torch.equal(first.attended[..., 1:], second.attended[..., 1:])
    assert not torch.equal(first.attended[..., 0], second.attended[..., 0])


def test_the_complement_is_the_product_of_two_means() -> None:
    torch.manual_seed(0)
    module = CCSSA(CHANNELS, 2, "spatial-temporal").eval()
    module.spatial, module.temporal = attention("spatial", 2, 1), attention("temporal", 2, 2)
    for part in (module.spatial, module.temporal):
        torch.nn.init.constant_(part.out.norm.bias, 1.5)
    target, source = tokens(), tokens(seed=1)
    with torch.no_grad():
        complement, maps = module(target, source, True)
        in_space, over_space = module.spatial(target, source, True)
        in_time, over_time = module.temporal(target, source, True)
    expected = torch.zeros_like(target)
    for t in range(STEPS):
        for n in range(TOKENS):
            expected[t, :, :, n] = in_space[t].mean(-1) * in_time[..., n].mean(0)
    assert 0 < expected.mean() < 1
    torch.testing.assert_close(complement, expected)
    assert torch.equal(maps.spatial, over_space.spatial)
    assert torch.equal(maps.temporal, over_time.temporal)


def test_maps_are_made_only_where_they_are_asked_for() -> None:
    for over in ("spatial", "temporal"):
        module = attention(over, 2)
        with torch.no_grad():
            plain, none = module(tokens(), tokens(seed=1), False)
            with_maps, _ = module(tokens(), tokens(seed=1), True)
        assert none == Maps()
        assert torch.equal(plain, with_maps)
