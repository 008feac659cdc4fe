"""The engine's benchmark counts what it says."""

from __future__ import annotations

import pytest

from model.bench import CASES, agreement, operations, timings


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
    found = agreement(CASES["events"], 4)
    assert found.samples == 4
    assert found.classes == 0
    assert found.flips < found.spikes / 100
