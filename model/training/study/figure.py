"""The figure of a study: accuracies, cross-entropy, and whether the map follows the sound."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from model.training.study.examiner import CALIBRATED
from model.training.study.report import Row
from model.training.study.variants import Variant

mpl.use("Agg")
_DPI = 120
#: Markers of the variants: the next one where the ten colours begin again.
_MARKERS = "os^D"
_COLOURS = 10
#: As many variants fit into a line of the least height.
_VARIANTS_A_LINE = 7


def draw(table: Sequence[Row], variants: Sequence[Variant], path: Path) -> None:
    """Draw the measures of clean and degraded test clips, and the maps where there are any."""
    accuracies = [row for row in table if row.part == "test clips" and row.key.endswith("accuracy")]
    losses = [
        row for row in table
        if row.key.startswith("test/clean/") and row.key.endswith(f"/cross-entropy{CALIBRATED}")
    ]  # fmt: skip
    maps = [row for row in table if row.key in ("pairs/mass", "pairs/other")]
    panels = [(accuracies, "accuracy in %", 100.0), (losses, "cross-entropy, calibrated", 1.0)]
    if gains := [row for row in table if row.key.startswith("gain/")]:
        panels.append((gains, "gain of all streams over one, in points", 100.0))
    if any(row.estimates[v.name] for row in maps for v in variants):
        panels.append((maps, "share of the visual map", 1.0))
    line = max(1.0, len(variants) / _VARIANTS_A_LINE)
    heights = [max(1.2, line * len(rows)) for rows, _, _ in panels]
    figure = Figure(figsize=(9, 1.2 + 0.42 * sum(heights)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(panels), 1, height_ratios=heights))
    for each, (rows, label, scale) in zip(axes, panels, strict=True):
        _dots(each, rows, variants, label, scale)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, fontsize=8)
    figure.savefig(path, dpi=_DPI)


def _dots(
    axes: Axes, rows: Sequence[Row], variants: Sequence[Variant], label: str, scale: float
) -> None:
    """Draw a line of dots with intervals for each row, one for each variant."""
    spread = np.linspace(-0.38, 0.38, len(variants)) if len(variants) > 1 else [0.0]
    for number, (variant, offset) in enumerate(zip(variants, spread, strict=True)):
        estimates = [row.estimates[variant.name] for row in rows]
        places = [i + offset for i, estimate in enumerate(estimates) if estimate]
        axes.errorbar(
            [scale * estimate.value for estimate in estimates if estimate], places,
            xerr=[scale * estimate.half for estimate in estimates if estimate],
            fmt=_MARKERS[number // _COLOURS % len(_MARKERS)], color=f"C{number % _COLOURS}",
            markersize=4, linewidth=1, label=variant.title,
        )  # fmt: skip
    if any(row.part.startswith("gain") for row in rows):
        axes.axvline(0, color="black", linewidth=0.6)
    axes.set_yticks(range(len(rows)), [_short(row) for row in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(label)
    axes.grid(alpha=0.3, axis="x")


def _short(row: Row) -> str:
    """Return the row's title without the measure, which the axis names."""
    title = row.title.removesuffix(CALIBRATED)
    return title if row.key.startswith("pairs/") else title.partition(", ")[2]
