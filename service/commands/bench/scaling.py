"""`scmrl bench scaling`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands.bench import report
from service.default_checkpoint import WEIGHTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from service.bench.scaling import Scaling


def scaling(
    weights: Annotated[
        Path, typer.Option(help="Folder of a checkpoint.", show_default="the embedded avdigits")
    ] = WEIGHTS / "avdigits",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are reported.")] = 7,
    seconds: Annotated[
        float, typer.Option(min=1, help="Seconds of load on the service at each point.")
    ] = 8,
    out: Annotated[
        Path | None, typer.Option(help="Folder for scaling.json and scaling.png.")
    ] = None,
) -> None:
    """Measure how cost scales with time steps, batch size, clip length and clients.

    Prints the values and a straight line fitted to each.
    """
    report.require_modules("aiohttp", *["matplotlib"] * bool(out))
    from rich.console import Console
    from rich.table import Table

    from service.bench import scaling as measure
    from service.runtime import cores

    cores.set_threads(cores.threads(0))
    cores.set_opencv_threads()
    engine, request, steps = measure.load_engine(weights)
    results = [
        measure.over_steps(engine, rounds),
        measure.over_batch(engine, steps, rounds),
        measure.over_length(request, rounds),
        measure.over_served_steps(weights, seconds),
        *measure.over_clients(weights, seconds),
    ]
    table = Table(title_justify="left")
    for heading in ("per", "quantity", "values", "fitted line"):
        table.add_column(heading)
    for result in results:
        pairs = zip(result.points, result.values, strict=True)
        table.add_row(
            result.variable, result.quantity,
            "  ".join(f"{point:g}: {value:.1f}" for point, value in pairs),
            f"{result.offset:.2f} + {result.slope:.3f} each",
        )  # fmt: skip
    Console().print(table)
    if out:
        report.write(out, "scaling", [asdict(result) for result in results], _figure(results))


def _figure(results: Sequence[Scaling]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.4 * len(results), 3.2), layout="constrained")
    for axes, result in zip(figure.subplots(1, len(results)), results, strict=True):
        axes.plot(result.points, result.values, "o-")
        axes.set_xlabel(result.variable)
        axes.set_title(result.quantity, fontsize=10)
        axes.set_ylim(bottom=0)
    return figure
