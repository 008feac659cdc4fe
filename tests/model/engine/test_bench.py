"""The engine's benchmark, and parity of the fused paths."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from model.engine import Engine
from model.engine.bench import (
    CASES,
    Timing,
    engines,
    inputs,
    moving,
    network,
    operations,
    parity_layers,
    timings,
)
from model.engine.parity import measure_parity
from model.engine.parity_cpu import CPUParityLayers
from model.fused.cpu.network import CPUNetwork

pytestmark = pytest.mark.slow


def time_case(name: str, batches: Sequence[int], device: str = "cpu") -> list[Timing]:
    case = CASES[name]

    def frames(batch: int) -> dict[str, Tensor]:
        return inputs(case, batch, seed=1)

    usable = engines(network(case), case.steps, device)
    return list(timings(usable, case.steps, frames, batches, seconds=0))


@pytest.mark.parametrize(("case", "billions"), [("urbansound8k_av", 0.19), ("crema_d", 2.8)])
def test_operations_of_a_sample_are_those_of_the_published_network(
    case: str, billions: float
) -> None:
    assert operations(CASES[case]) / 1e9 == pytest.approx(
        billions, rel=0.1
    )  # held frames pass the first convolution once


def test_moving_pictures_are_one_per_step_of_the_same_network() -> None:
    held = CASES["urbansound8k_av"]
    frames = inputs(moving(held), 2, seed=1)
    assert {name: x.shape[:2] for name, x in frames.items()} == {"audio": (1, 2), "visual": (4, 2)}
    assert not frames["visual"][0].equal(frames["visual"][1])
    # The first convolution of pictures is computed at each step.
    first = held.config.streams["visual"]
    filters = network(held).patch["visual"].stages[0].conv.weight  # type: ignore[union-attr]
    more = 3 * first.size[0] * first.size[1] * filters.numel()
    assert operations(moving(held)) == operations(held) + more
    assert moving(CASES["events"]) == CASES["events"]


def test_each_path_is_timed_against_the_plain_one() -> None:
    plain, fused, int8 = time_case("events", [1])
    assert [timing.path for timing in (plain, fused, int8)] == ["plain", "fused", "fused-int8"]
    assert plain.ratio == 1
    assert fused.ratio == pytest.approx(plain.milliseconds / fused.milliseconds)


@pytest.mark.parametrize("case", ["events", "urbansound8k_av"])
def test_fused_arithmetic_flips_fewer_spikes_than_one_in_100_000(case: str) -> None:
    plain = network(CASES[case])
    steps = CASES[case].steps
    parity = measure_parity(
        plain, CPUParityLayers(CPUNetwork(plain, 2)), [inputs(CASES[case], 2, seed=5)], steps
    )
    assert parity.samples == 2
    assert parity.spikes > 100_000
    assert parity.flips <= parity.spikes / 100_000
    assert parity.classes == 0


def test_int8_flips_some_spikes() -> None:
    case = CASES["events"]
    plain = network(case)
    int8 = CPUParityLayers(CPUNetwork(plain, 2, int8=True))
    parity = measure_parity(plain, int8, [inputs(case, 1, seed=5)], case.steps)
    assert 0 < parity.flips < parity.spikes / 10


def test_another_network_has_no_parity() -> None:
    case = CASES["events"]
    other = CPUParityLayers(CPUNetwork(network(case, seed=1), 2))
    parity = measure_parity(network(case), other, [inputs(case, 1, seed=5)], case.steps)
    assert parity.flips > parity.spikes / 100
    assert parity.token_flips > parity.tokens / 100
    assert parity.difference > 1e-3


@pytest.mark.cuda
@pytest.mark.parametrize("seconds", [0.0, 5.0])
@pytest.mark.parametrize("case", CASES)
def test_fused_arithmetic_flips_as_few_on_a_gpu(case: str, seconds: float) -> None:
    """With the tiles of the rule, and with what was measured in some seconds."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    plain = network(CASES[case]).to("cuda")
    tiles = None
    if seconds:
        engine = Engine(deepcopy(plain), "cuda")
        assert engine.use_fastest(["fused-graphs"], CASES[case].steps)
        engine.tune(seconds)
        tiles = engine.tiles
    compared = parity_layers(plain, "fused-graphs", tiles)
    assert compared is not None
    frames = {name: x.to("cuda") for name, x in inputs(CASES[case], 2, seed=5).items()}
    parity = measure_parity(plain, compared, [frames], CASES[case].steps)
    assert parity.spikes > 100_000
    assert parity.flips <= parity.spikes / 100_000
    assert parity.classes == 0


@pytest.mark.cuda
def test_each_path_of_a_gpu_is_timed() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    measured = time_case("events", [1, 40], device="cuda")
    assert [timing.path for timing in measured] == 2 * [
        "plain", "graphs", "fused-graphs", "fused-half-graphs"
    ]  # fmt: skip
