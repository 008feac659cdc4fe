"""The tables of `scmrl bench engine` that are for CUDA."""

from __future__ import annotations

import pytest
from rich.console import Console

from model.engine import Engine
from model.engine.bench import CASES, network
from model.engine.kernel_times import KernelTime, KernelTimes
from service.commands.bench import kernels
from service.commands.bench.kernels import Launched

FUSED = KernelTimes(
    "fused-graphs",
    8,
    launches=1,
    kernels=[
        KernelTime("fire", 20, 150.0),
        KernelTime("pool", 6, 48.5),
        KernelTime("unpack", 4, 1.0),
        KernelTime("sum", 2, 0.5),
    ],
    copies=[KernelTime("Memcpy HtoD (Pinned -> Device)", 2, 30.0)],
)


def printed(measured: list[Launched]) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        kernels.show(measured, console)
    return capture.get()


def test_nothing_is_measured_or_printed_for_a_cpu() -> None:
    case = CASES["events"]
    plain = network(case)

    def frames(batch: int) -> None:
        pytest.fail("no input is needed")

    measured = kernels.measure({"plain": Engine(plain, "cpu")}, plain, frames, [1], case.steps)  # type: ignore[arg-type]
    assert measured == []
    assert printed(measured) == ""


def test_launches_kernels_and_layers_are_printed() -> None:
    layers = [KernelTime("audio stage 1", 2, 40.0), KernelTime("between layers", 9, 12.5)]
    rows = printed([Launched(8, [FUSED], layers)]).splitlines()
    assert rows[0] == (
        "batch 8, fused-graphs: launches 1, kernels 32 (200 us in all), copies 30 us"
    )
    cells = [[cell.strip() for cell in row.strip("│").split("│")] for row in rows if "│" in row]
    assert ["8", "fused-graphs", "fire", "20", "150.0", "75%"] in cells
    assert ["8", "fused-graphs", "2 others", "6", "1.5", "1%"] in cells, "of less than 1 % each"
    assert ["audio stage 1", "2", "40.0"] in cells
    assert not any("unpack" in row for row in rows)


def test_layers_of_batches_are_beside_each_other() -> None:
    batches = {
        1: [KernelTime("audio MLP", 2, 8.0)],
        64: [KernelTime("audio MLP", 2, 90.0)],
    }
    table = kernels.layer_table(batches)
    assert [list(column.cells) for column in table.columns] == [
        ["audio MLP"], ["2"], ["8.0"], ["2"], ["90.0"],
    ]  # fmt: skip
