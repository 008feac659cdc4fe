"""`scmrl bench decode`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands.bench import report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from service.bench.decode import DecodeTiming


def decode(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, of which the median is taken.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Folder for decode.json and decode.png.")] = None,
) -> None:
    """Four frames of a clip: reading them, against decoding all of it; and what the wall costs.

    In turns, in one thread, and the four also in as many as a request has that is alone. "to RGB"
    turns every frame into a picture, as a reader does that does not know which it will need;
    "decoded" leaves them as the codec has them. Times: how many of our ways fit into each.
    """
    report.need(*["matplotlib"] * bool(out))
    from rich.console import Console
    from rich.table import Table

    from service.bench.decode import process_timings, timings

    console = Console(width=120)
    table = Table(title="Four frames wanted, median ms", title_justify="left")
    for heading in ("clip", "KiB", "all to RGB", "all decoded", "wanted", "times", "alone", "times",
                    "same frames"):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "clip" else "right")
    found = timings(rounds)
    for t in found:
        table.add_row(
            t.clip, str(t.kilobytes), f"{t.every_rgb_ms:.1f}", f"{t.every_ms:.1f}",
            f"{t.wanted_ms:.1f}", _times(t, t.wanted_ms), f"{t.alone_ms:.1f}",
            _times(t, t.alone_ms), "yes" if t.same else "no",
        )  # fmt: skip
    console.print(table)

    walls = Table(title="Decoding and preprocessing of a request, median ms", title_justify="left")
    for heading in ("clip", "here", "in a confined process", "difference"):
        walls.add_column(heading, justify="left" if heading == "clip" else "right")
    confined = process_timings(4 * rounds)
    for c in confined:
        walls.add_row(
            c.clip, f"{c.here_ms:.1f}", f"{c.confined_ms:.1f}", f"{c.confined_ms - c.here_ms:+.1f}"
        )
    console.print(walls)
    if out:
        rows = {"frames": [asdict(t) for t in found], "processes": [asdict(c) for c in confined]}
        report.write(out, "decode", rows, _figure(found))


def _times(timing: DecodeTiming, ms: float) -> str:
    """How often it fits into turning all into RGB, and into decoding all."""
    return f"{timing.every_rgb_ms / ms:.1f} / {timing.every_ms / ms:.1f}"


def _figure(found: Sequence[DecodeTiming]) -> Figure:
    """Milliseconds of each way, a group of bars a clip."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    ways = {
        "all to RGB": [t.every_rgb_ms for t in found],
        "all decoded": [t.every_ms for t in found],
        "the four wanted": [t.wanted_ms for t in found],
        "the four, alone": [t.alone_ms for t in found],
    }
    for index, (name, values) in enumerate(ways.items()):
        places = [at + 0.21 * (index - 1.5) for at in range(len(found))]
        bars = axes.barh(places, values, 0.2, label=name)
        axes.bar_label(bars, fmt="%.0f", fontsize=8, padding=2)
    axes.set_yticks(range(len(found)), [t.clip for t in found])
    axes.invert_yaxis()
    axes.set_xlabel("ms")
    axes.legend()
    return figure
