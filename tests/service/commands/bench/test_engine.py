"""What `scmrl bench engine` compares."""

from __future__ import annotations

import pytest
from rich.console import Console

from model.engine import Engine
from model.engine.bench import CASES, inputs, network, paths
from service.commands.bench.engine import _compare

pytestmark = pytest.mark.slow


def test_each_fused_path_of_a_cpu_is_compared_with_the_plain_one() -> None:
    case = CASES["events"]
    batches = [inputs(case, 2, seed=5), inputs(case, 1, seed=6)]
    console = Console(width=300)
    with console.capture() as capture:
        plain = network(case)
        engines = {path: Engine(plain, "cpu") for path in paths("cpu")}
        parities = _compare(plain, engines, batches, case.steps, console)
    assert list(parities) == ["fused", "fused-int8"]
    fused, int8 = parities["fused"], parities["fused-int8"]
    assert fused["samples"] == int8["samples"] == 3
    assert fused["spikes"] == int8["spikes"] > 0
    assert fused["flips"] < int8["flips"]
    assert fused["difference"] < int8["difference"]
    for line, (path, parity) in zip(capture.get().splitlines(), parities.items(), strict=True):
        assert line.startswith(f"{path} against plain: ")
        assert f"{parity['classes']} of 3 predictions" in line
