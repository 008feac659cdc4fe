"""Table and figure of a study over an axis: a line for each curve of each variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from model.training.study import report
from model.training.study.estimate import Estimate
from model.training.study.options import StudyOptions
from model.training.study.report import Row
from model.training.study.sweeps import CLEAN, IN_STEPS, NO_EXIT
from model.training.study.variants import Variant

mpl.use("Agg")
_DPI = 120
#: The axis of each study over one.
AXES = {
    "noise": "signal-to-noise ratio in dB",
    "steps": "time steps T",
    "exit": "exit margin",
}


@dataclass(frozen=True)
class _Curve:
    """Accuracies, or time steps, of one variant by point of the axis."""

    title: str
    points: dict[str, Estimate]

    @property
    def unit(self) -> int:
        """Factor by which values are shown: 100 for accuracies, which are in per cent."""
        return 1 if self.title.endswith(IN_STEPS) else 100


def markdown(
    table: Sequence[Row], variants: Sequence[Variant], options: StudyOptions, warning: str = ""
) -> str:
    """Return the table, a column for each curve, with its conditions, warning and the command."""
    curves = _curves(table, variants)
    points = dict.fromkeys(point for curve in curves for point in curve.points)
    lines = [
        *report.heading(options, warning),
        f"Accuracy in %. {report.conditions(table, options)}",
        "",
        f"| {AXES[options.study]} | " + " | ".join(curve.title for curve in curves) + " |",
        "| --- |" + " --- |" * len(curves),
    ]
    for point in points:
        cells = (_cell(curve.points.get(point), curve.unit) for curve in curves)
        lines.append(f"| {point} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(table: Sequence[Row], variants: Sequence[Variant], path: Path) -> None:
    """Draw the curves with their intervals, time steps in axes of their own; the accuracy without
    noise or without an exit is a dotted line."""
    study = next(row.key.partition("/")[0] for row in table if row.key.startswith(report.SWEEPS))
    curves = _curves(table, variants)
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    units = sorted({curve.unit for curve in curves}, reverse=True)
    for axes, unit in zip(figure.subplots(1, len(units), squeeze=False)[0], units, strict=True):
        for curve in curves:
            if curve.unit == unit:
                _draw(axes, curve)
        axes.set_xlabel(AXES[study])
        axes.set_ylabel("accuracy in %" if unit == 100 else "time steps")
        axes.set_ylim(0, 101 if unit == 100 else None)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=_DPI)


def _draw(axes: Axes, curve: _Curve) -> None:
    numbers = {
        float(x): estimate for x, estimate in curve.points.items() if x not in (CLEAN, NO_EXIT)
    }
    (line, *_) = axes.errorbar(
        list(numbers), [curve.unit * estimate.value for estimate in numbers.values()],
        yerr=[curve.unit * estimate.half for estimate in numbers.values()],
        marker="o", markersize=4, linewidth=1.2, capsize=2, label=curve.title,
    )  # fmt: skip
    for point in (CLEAN, NO_EXIT):
        if level := curve.points.get(point):
            axes.axhline(
                curve.unit * level.value, color=line.get_color(), linewidth=0.8, linestyle=":"
            )


def _curves(table: Sequence[Row], variants: Sequence[Variant]) -> list[_Curve]:
    """Return the curves of all variants; the variant is named where there are several."""
    table = [row for row in table if row.key.startswith(report.SWEEPS)]
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


def _cell(estimate: Estimate | None, unit: int) -> str:
    if estimate is None:
        return "–"
    digits = 1 if unit == 100 else 2
    return f"{unit * estimate.value:.{digits}f} ± {unit * estimate.half:.{digits}f}"
