"""The engine's benchmark counts what it says."""

from __future__ import annotations

import pytest
import torch

from model.engine.bench import CASES, inputs, network, operations, parity_layers, timings
from model.engine.parity import measure_parity
from model.engine.parity_cpu import CPUParityLayers
from model.fused.cpu.network import CPUNetwork


@pytest.mark.parametrize(("case", "billions"), [("urbansound8k_av", 0.19), ("crema_d", 2.8)])
def test_a_sample_costs_what_the_published_network_does(case: str, billions: float) -> None:
    assert operations(CASES[case]) / 1e9 == pytest.approx(
        billions, rel=0.1
    )  # held frames pass the first convolution once


def test_each_path_is_timed_against_the_plain_one_and_agrees_with_it() -> None:
    plain, fused, int8 = timings(CASES["events"], [1], seconds=0)
    assert [one.path for one in (plain, fused, int8)] == ["plain", "fused", "fused-int8"]
    assert plain.ratio == 1
    assert fused.ratio == pytest.approx(plain.milliseconds / fused.milliseconds)


@pytest.mark.parametrize("case", ["events", "urbansound8k_av"])
def test_fused_arithmetic_flips_fewer_spikes_than_one_in_100_000(case: str) -> None:
    plain = network(CASES[case])
    steps = CASES[case].steps
    found = measure_parity(
        plain, CPUParityLayers(CPUNetwork(plain, 2)), [inputs(CASES[case], 2, seed=5)], steps
    )
    assert found.samples == 2
    assert found.spikes > 100_000
    assert found.flips <= found.spikes / 100_000
    assert found.classes == 0


def test_int8_is_counted_as_well() -> None:
    case = CASES["events"]
    plain = network(case)
    int8 = CPUParityLayers(CPUNetwork(plain, 2, int8=True))
    found = measure_parity(plain, int8, [inputs(case, 1, seed=5)], case.steps)
    assert 0 < found.flips < found.spikes / 10


def test_a_network_that_is_another_one_does_not_agree() -> None:
    case = CASES["events"]
    other = CPUParityLayers(CPUNetwork(network(case, seed=1), 2))
    found = measure_parity(network(case), other, [inputs(case, 1, seed=5)], case.steps)
    assert found.flips > found.spikes / 100
    assert found.token_flips > found.tokens / 100
    assert found.difference > 1e-3


@pytest.mark.cuda
@pytest.mark.parametrize("case", CASES)
def test_fused_arithmetic_flips_as_few_on_a_gpu(case: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    plain = network(CASES[case]).to("cuda")
    compared = parity_layers(plain, "fused-graphs")
    assert compared is not None
    frames = {name: x.to("cuda") for name, x in inputs(CASES[case], 2, seed=5).items()}
    found = measure_parity(plain, compared, [frames], CASES[case].steps)
    assert found.spikes > 100_000
    assert found.flips <= found.spikes / 100_000
    assert found.classes == 0


@pytest.mark.cuda
def test_each_path_of_a_gpu_is_timed_and_agrees() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    found = list(timings(CASES["events"], [1, 40], seconds=0, device="cuda"))
    assert [one.path for one in found] == 2 * ["plain", "graphs", "fused-graphs"]
