"""`scmrl bench scaling`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands.bench import report
from service.settings import WEIGHTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from service.bench.scaling import Growth


def scaling(
    weights: Annotated[Path, typer.Option(help="A checkpoint's folder.")] = WEIGHTS / "avdigits",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, of which the median is taken.")] = 7,
    seconds: Annotated[
        float, typer.Option(min=1, help="Seconds for each load on the service.")
    ] = 8,
    out: Annotated[
        Path | None, typer.Option(help="Folder for scaling.json and scaling.png.")
    ] = None,
) -> None:
    """How cost grows with time steps, batch, clip length and clients, and the slope of each."""
    report.need("aiohttp", *["matplotlib"] * bool(out))
    from rich.console import Console
    from rich.table import Table

    from service.bench import scaling as study
    from service.runtime import cores

    cores.set_threads(cores.threads(0))
    cores.set_opencv_threads()
    engine, wanted, steps = study.engine_of(weights)
    found = [
        study.over_steps(engine, rounds),
        study.over_batch(engine, steps, rounds),
        study.over_length(wanted, rounds),
        study.over_served_steps(weights, seconds),
        *study.over_clients(weights, seconds),
    ]
    table = Table(title_justify="left")
    for heading in ("over", "measured", "values", "slope"):
        table.add_column(heading)
    for growth in found:
        pairs = zip(growth.at, growth.values, strict=True)
        table.add_row(
            growth.over, growth.measured, "  ".join(f"{at:g}: {value:.1f}" for at, value in pairs),
            f"{growth.offset:.2f} + {growth.slope:.3f} each",
        )  # fmt: skip
    Console().print(table)
    if out:
        report.write(out, "scaling", [asdict(growth) for growth in found], _figure(found))


def _figure(found: Sequence[Growth]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(found), 3.2), layout="constrained")
    for axes, growth in zip(figure.subplots(1, len(found)), found, strict=True):
        axes.plot(growth.at, growth.values, "o-")
        axes.set_xlabel(growth.over)
        axes.set_title(growth.measured, fontsize=10)
        axes.set_ylim(bottom=0)
    return figure
