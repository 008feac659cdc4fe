"""Tables of launches and kernel times, for `scmrl bench engine` on CUDA."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from torch import Tensor

    from model.config import EnginePath
    from model.engine import Engine
    from model.engine.kernel_times import KernelTime, KernelTimes
    from model.network import SCMRL

#: Share of a run's time below which kernels are shown together.
_MIN_SHARE = 0.01


@dataclass(frozen=True)
class Launched:
    """What runs of a batch size start on a device: those of each path, and the fused path's layers
    one by one."""

    batch: int
    paths: list[KernelTimes]
    layers: list[KernelTime]


def measure(
    engines: Mapping[EnginePath, Engine],
    plain: SCMRL,
    frames: Callable[[int], dict[str, Tensor]],
    batches: Sequence[int],
    steps: int,
) -> list[Launched]:
    """Profile one run of each path at each batch size; nothing is measured on a CPU.

    `plain`: the network, on the device of the engines. `frames` returns a batch
    [T or 1, B, C, H, W] by stream.
    """
    from model.engine.kernel_times import kernel_times, layer_times

    device = plain.head.bias.device
    if device.type != "cuda":
        return []
    measured = []
    for batch in batches:
        inputs = frames(batch)
        times = (kernel_times(engine, path, inputs, steps) for path, engine in engines.items())
        moved = {name: x.to(device) for name, x in inputs.items()}
        fused = engines.get("fused-graphs")
        layers = layer_times(plain, moved, steps, fused.tiles) if fused else []
        measured.append(Launched(batch, list(times), layers))
    return measured


def show(measured: Sequence[Launched], console: Console) -> None:
    """Print what was measured; nothing where that is nothing."""
    if not measured:
        return
    for batch in measured:
        for path in batch.paths:
            console.print(_format_launches(path))
    console.print(kernel_table([path for batch in measured for path in batch.paths]))
    layers = {batch.batch: batch.layers for batch in measured if batch.layers}
    if layers:
        console.print(layer_table(layers))


def _format_launches(times: KernelTimes) -> str:
    kernels = sum(kernel.count for kernel in times.kernels)
    microseconds = sum(kernel.microseconds for kernel in times.kernels)
    copied = sum(copy.microseconds for copy in times.copies)
    return (
        f"batch {times.batch}, {times.path}: launches {times.launches}, kernels {kernels} "
        f"({microseconds:.0f} us in all), copies {copied:.0f} us"
    )


def kernel_table(paths: Sequence[KernelTimes]) -> Table:
    """Return a table of the kernels of runs, by name; short ones are together."""
    from rich.table import Table

    table = Table(title="kernels of a run, by name", title_justify="left")
    for heading in ("batch", "path", "kernel", "count", "us", "share"):
        table.add_column(heading, justify="left" if heading == "kernel" else "right")
    for times in paths:
        total = sum(kernel.microseconds for kernel in times.kernels)
        for kernel in _join_short(times.kernels, total):
            table.add_row(
                str(times.batch), times.path, kernel.name, str(kernel.count),
                f"{kernel.microseconds:.1f}", f"{kernel.microseconds / total:.0%}",
            )  # fmt: skip
    return table


def _join_short(kernels: Sequence[KernelTime], total: float) -> list[KernelTime]:
    """Return the kernels, with those of less than _MIN_SHARE of the total as one row."""
    from model.engine.kernel_times import KernelTime

    long = [kernel for kernel in kernels if kernel.microseconds >= _MIN_SHARE * total]
    short = [kernel for kernel in kernels if kernel.microseconds < _MIN_SHARE * total]
    if len(short) < 2:
        return [*long, *short]
    joined = KernelTime(
        f"{len(short)} others",
        sum(kernel.count for kernel in short),
        sum(kernel.microseconds for kernel in short),
    )
    return [*long, joined]


def layer_table(batches: Mapping[int, Sequence[KernelTime]]) -> Table:
    """Return a table of the fused path's layers, by batch size: a row for each layer."""
    from rich.table import Table

    table = Table(title="layers of the fused path, one after the other", title_justify="left")
    table.add_column("layer")
    for batch in batches:
        table.add_column(f"batch {batch}: kernels", justify="right")
        table.add_column("us", justify="right")
    for rows in zip(*batches.values(), strict=True):
        cells = ((str(row.count), f"{row.microseconds:.1f}") for row in rows)
        table.add_row(rows[0].name, *(cell for pair in cells for cell in pair))
    return table
