"""The neuron fires as its equation says, in training and in eval, and keeps no state."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from spikingjelly.activation_based import neuron, surrogate
from torch import Tensor

from model.network.neuron import LIF

#: Multiples of 1/8: sums and halvings of them are exact, so ties with the threshold are exact.
EIGHTHS = st.integers(-24, 40).map(lambda x: x / 8)
FLOATS = st.floats(-1e6, 1e6, width=32)
SEQUENCES = st.integers(1, 9).flatmap(
    lambda steps: st.lists(
        st.lists(EIGHTHS | FLOATS, min_size=steps, max_size=steps), min_size=1, max_size=4
    )
)


def lif(threshold: float = 1.0) -> LIF:
    """A neuron whose threshold came from a checkpoint."""
    node = LIF()
    node.load_state_dict({"threshold": torch.tensor(threshold)})
    return node


def currents(steps: int, count: int = 1000, seed: int = 0) -> Tensor:
    """Input currents [T, count] around the threshold."""
    return torch.from_numpy(
        np.random.RandomState(seed).normal(0.8, 1.5, (steps, count)).astype(np.float32)
    )


def training(node: LIF, x: Tensor) -> Tensor:
    """The spikes of the training forward."""
    spikes: Tensor = node(x.detach().requires_grad_())
    assert spikes.requires_grad
    return spikes.detach()


def by_equation(x: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Spikes and charged potentials h of one neuron after the other, [T, N], by the equation."""
    spikes, charged = torch.zeros_like(x), torch.zeros_like(x)
    for n in range(x.shape[1]):
        v = torch.zeros((), dtype=x.dtype)
        for t in range(x.shape[0]):
            h = v + (x[t, n] - v) / 2
            fires = bool(h >= torch.tensor(threshold, dtype=x.dtype))
            spikes[t, n], charged[t, n] = float(fires), h
            v = torch.zeros_like(h) if fires else h
    return spikes, charged


# --- forward -------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [1.0, 0.5, 0.93])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_spikes_are_those_of_the_equation(threshold: float, steps: int) -> None:
    x = currents(steps, 200)
    expected, _ = by_equation(x, threshold)
    assert 0 < expected.mean() < 1
    assert torch.equal(lif(threshold)(x), expected)
    assert torch.equal(training(lif(threshold), x), expected)


@pytest.mark.parametrize("threshold", [1.0, 0.93])
def test_spikes_are_those_of_spikingjellys_own_neuron(threshold: float) -> None:
    x = currents(6)
    theirs = neuron.LIFNode(
        tau=2.0, v_threshold=float(torch.tensor(threshold)), v_reset=0.0, step_mode="m"
    )
    expected = theirs(x)
    assert torch.equal(lif(threshold)(x), expected)
    assert torch.equal(training(lif(threshold), x), expected)


def test_a_tie_with_the_threshold_fires() -> None:
    below = torch.nextafter(torch.tensor(2.0), torch.tensor(0.0))
    x = torch.stack([torch.tensor(2.0), below, torch.tensor(2.5)]).unsqueeze(0)
    for spikes in (lif()(x), training(lif(), x)):
        assert spikes.tolist() == [[1.0, 0.0, 1.0]]
    later = torch.tensor([[1.0], [1.5]])  # h: 0.5, then 0.5 + (1.5 - 0.5) / 2 = 1
    for spikes in (lif()(later), training(lif(), later)):
        assert spikes.tolist() == [[0.0], [1.0]]


def test_a_spike_resets_the_potential_to_zero() -> None:
    x = torch.tensor([[100.0], [1.9], [1.0]])  # h: 50, then 0.95 and 0.975 from rest
    for spikes in (lif()(x), training(lif(), x)):
        assert spikes.flatten().tolist() == [1.0, 0.0, 0.0]


@pytest.mark.slow
@settings(max_examples=300)
@given(SEQUENCES, st.sampled_from([1.0, 0.5, 0.93]))
def test_training_and_eval_give_the_same_spikes(rows: list[list[float]], threshold: float) -> None:
    node, x = lif(threshold), torch.tensor(rows).T
    with torch.no_grad():
        expected = node(x)
    assert torch.equal(training(node, x), expected)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 16), st.integers(1, 3), st.booleans())
def test_layouts_and_numbers_of_steps_do_not_matter(
    seed: int, steps: int, batch: int, held: bool
) -> None:
    x = currents(steps, batch * 6, seed).reshape(steps, batch, 2, 3)
    # A repeated frame, as direct encoding has it, or tokens with their channels moved.
    x = x[:1].expand(steps, -1, -1, -1) if held else x.transpose(2, 3)
    expected = lif()(x.contiguous())
    assert torch.equal(lif()(x), expected)
    assert torch.equal(training(lif(), x), expected)


def test_inputs_are_left_as_they_are() -> None:
    x = currents(5)
    before = x.clone()
    lif()(x)
    training(lif(), x)
    assert torch.equal(x, before)


# --- the checkpoint's threshold --------------------------------------------------------------


def test_a_checkpoints_own_threshold_decides() -> None:
    x = torch.full((1, 1), 1.6)  # h = 0.8
    assert lif(1.0)(x).item() == 0
    assert lif(0.75)(x).item() == 1
    assert training(lif(0.75), x).item() == 1


@pytest.mark.parametrize("assign", [False, True])
def test_a_threshold_is_saved_loaded_and_copied(assign: bool) -> None:
    state = lif(0.6).state_dict()
    assert state["threshold"] == torch.tensor(0.6)
    node = LIF()
    node.load_state_dict(state, assign=assign)
    x = currents(4)
    expected = lif(0.6)(x)
    assert not torch.equal(LIF()(x), expected)
    assert torch.equal(node(x), expected)
    assert torch.equal(copy.deepcopy(node)(x), expected)


# --- gradient ----------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [1.0, 0.7])
def test_the_gradient_is_the_surrogates_at_each_step(threshold: float) -> None:
    x = currents(6, 50).double().requires_grad_()
    weight = currents(6, 50, seed=1).double()
    (lif(threshold)(x) * weight).sum().backward()
    _, charged = by_equation(x.detach(), float(torch.tensor(threshold)))
    sigmoid = torch.sigmoid(4 * (charged - float(torch.tensor(threshold))))
    torch.testing.assert_close(x.grad, weight * 4 * sigmoid * (1 - sigmoid) / 2)


def test_the_gradient_is_the_slope_of_a_sigmoid_with_the_step_before_held() -> None:
    x = currents(5, 40).double().requires_grad_()
    spikes = lif()(x)
    spikes.sum().backward()
    fired, charged = by_equation(x.detach(), 1.0)
    rest = torch.cat([torch.zeros_like(charged[:1]), (charged * (1 - fired))[:-1]])

    def soft(current: Tensor) -> Tensor:
        return torch.sigmoid(4 * (rest + (current - rest) / 2 - 1))

    with torch.no_grad():
        slope = (soft(x + 1e-6) - soft(x - 1e-6)) / 2e-6
    torch.testing.assert_close(x.grad, slope, rtol=1e-6, atol=1e-8)


def test_the_gradient_is_spikingjellys_with_its_potential_detached() -> None:
    x = currents(6, 100)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    weight = currents(6, 100, seed=1)
    (lif()(ours) * weight).sum().backward()

    node = neuron.LIFNode(
        tau=2.0, detach_reset=True, surrogate_function=surrogate.Sigmoid(alpha=4.0)
    )
    spikes = []
    for step in theirs:
        spikes.append(node(step))
        node.v = node.v.detach()
    (torch.stack(spikes) * weight).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_held_frame_gathers_the_gradient_of_all_steps() -> None:
    frame = currents(1, 30).requires_grad_()
    lif()(frame.expand(5, -1)).sum().backward()
    repeated = frame.detach().repeat(5, 1).requires_grad_()
    lif()(repeated).sum().backward()
    assert frame.grad is not None
    assert repeated.grad is not None
    torch.testing.assert_close(frame.grad, repeated.grad.sum(0, keepdim=True))


def test_no_gradient_is_kept_where_none_is_wanted() -> None:
    x = currents(3).requires_grad_()
    with torch.no_grad():
        assert not lif()(x).requires_grad
    with torch.inference_mode():
        assert lif()(x).is_inference()


# --- no state ----------------------------------------------------------------------------------


def test_every_call_starts_at_rest() -> None:
    node, x = lif(), torch.full((1, 1), 1.5)  # a potential of 0.75, that a second call would raise
    assert node(x).item() == 0
    assert node(x).item() == 0
    assert training(node, x).item() == 0
    assert training(node, x).item() == 0


def test_one_neuron_serves_calls_of_any_shape() -> None:
    node = lif()
    for shape in ((4, 2), (2, 3, 5), (1, 1), (7, 2, 2, 2)):
        x = currents(shape[0], int(np.prod(shape[1:]))).reshape(shape)
        assert torch.equal(node(x), lif()(x))


def test_threads_share_a_neuron() -> None:
    node = lif()
    inputs = [currents(2 + i % 5, 500 + i, seed=i) for i in range(40)]
    expected = [lif()(x) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        for run in (node, lambda x: training(node, x)):
            results = list(pool.map(run, inputs))
            assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))
