"""`scmrl bench tensors`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands.bench import report
from service.commands.device import Device
from service.default_checkpoint import WEIGHTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from service.bench.tensors import TensorSpeed


def tensors(
    weights: Annotated[
        Path, typer.Option(help="Folder of a checkpoint.", show_default="the embedded avdigits")
    ] = WEIGHTS / "avdigits",
    device: Device = "auto",
    max_batch: Annotated[int, typer.Option(min=1, help="Largest batch.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are reported.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of each measurement.")] = 3,
    out: Annotated[
        Path | None, typer.Option(help="Folder for tensors.json and tensors.png.")
    ] = None,
) -> None:
    """Measure preprocessed tensors: the engine alone, through the queue, and as whole answers.

    Each round measures the three in turn. Nothing is decoded and there is no HTTP. With several
    devices the engine alone is that of the first one, and the queue uses all.
    """
    report.require_modules(*["matplotlib"] * bool(out))
    from rich.console import Console
    from rich.table import Table

    from model.checkpoint import CheckpointError
    from service.bench.tensors import measure
    from service.runtime import cores

    cores.set_threads(cores.threads(0))
    try:
        speed = measure(weights, device, max_batch, seconds, rounds)
    except CheckpointError as exc:
        raise typer.BadParameter(str(exc), param_hint="--weights") from exc
    table = Table(title=f"{weights.name}, batches of {max_batch}", title_justify="left")
    for heading in ("way", "clips/s", "of the engine alone"):
        table.add_column(heading)
    for way, rate in _ways(speed).items():
        table.add_row(way, f"{rate:.1f}", f"{rate / speed.engine:.0%}")
    Console().print(table)
    if out:
        report.write(out, "tensors", asdict(speed), _figure(speed))


def _ways(speed: TensorSpeed) -> dict[str, float]:
    return {
        "engine alone": speed.engine,
        "through the queue": speed.queue,
        "whole answers": speed.answers,
    }


def _figure(speed: TensorSpeed) -> Figure:
    from matplotlib.figure import Figure

    ways = _ways(speed)
    figure = Figure(figsize=(4.5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.bar(list(ways), list(ways.values()))
    axes.set_ylabel("clips/s")
    return figure
