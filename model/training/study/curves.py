"""Table and figure of a study over an axis: a line for each curve of each variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from model.training.study import report
from model.training.study.estimate import Estimate
from model.training.study.options import StudyOptions
from model.training.study.report import Row
from model.training.study.sweeps import CLEAN
from model.training.study.variants import Variant

mpl.use("Agg")
_DPI = 120
#: The axis of each study over one.
AXES = {"noise": "signal-to-noise ratio in dB", "steps": "time steps T"}


@dataclass(frozen=True)
class _Curve:
    """Accuracies of one variant by point of the axis."""

    title: str
    points: dict[str, Estimate]


def markdown(table: Sequence[Row], variants: Sequence[Variant], options: StudyOptions) -> str:
    """Return the table, a column for each curve, with its conditions and the command."""
    curves = _curves(table, variants)
    points = dict.fromkeys(point for curve in curves for point in curve.points)
    lines = [
        f"`{options.command}`",
        "",
        f"Accuracy in %. {report.conditions(table, options)}",
        "",
        f"| {AXES[options.study]} | " + " | ".join(curve.title for curve in curves) + " |",
        "| --- |" + " --- |" * len(curves),
    ]
    for point in points:
        cells = (_cell(curve.points.get(point)) for curve in curves)
        lines.append(f"| {point} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(table: Sequence[Row], variants: Sequence[Variant], path: Path) -> None:
    """Draw the curves with their intervals; the accuracy without noise is a dotted line."""
    study = table[0].key.partition("/")[0]
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for curve in _curves(table, variants):
        numbers = {float(x): each for x, each in curve.points.items() if x != CLEAN}
        (line, *_) = axes.errorbar(
            list(numbers), [100 * each.value for each in numbers.values()],
            yerr=[100 * each.half for each in numbers.values()],
            marker="o", markersize=4, linewidth=1.2, capsize=2, label=curve.title,
        )  # fmt: skip
        if clean := curve.points.get(CLEAN):
            axes.axhline(100 * clean.value, color=line.get_color(), linewidth=0.8, linestyle=":")
    axes.set_xlabel(AXES[study])
    axes.set_ylabel("accuracy in %")
    axes.set_ylim(0, 101)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=_DPI)


def _curves(table: Sequence[Row], variants: Sequence[Variant]) -> list[_Curve]:
    """Return the curves of all variants; the variant is named where there are several."""
    titles = dict.fromkeys(row.key.split("/")[2] for row in table)
    curves = []
    for variant in variants:
        for title in titles:
            points = {
                row.key.split("/")[1]: each for row in table
                if row.key.split("/")[2] == title and (each := row.estimates[variant.name])
            }  # fmt: skip
            named = title if len(variants) == 1 else f"{variant.title}: {title}"
            if points:
                curves.append(_Curve(named, points))
    return curves


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    return f"{100 * estimate.value:.1f} ± {100 * estimate.half:.1f}"
