"""The figures of an evaluation, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model.training.accuracy import Accuracy
from model.training.reliability import BINS, Reliability

mpl.use("Agg")
mpl.rcParams["text.parse_math"] = False  # a class may have the name `$5_$`
_DPI, _SMALL_DPI = 120, 80
#: Most characters of a class's name.
_NAME = 30


def confusion(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], labels: Sequence[str], path: Path
) -> None:
    """Draw the confusion matrix: a row for each true class, a column for each predicted one."""
    counts = np.zeros((len(labels), len(labels)), int)
    np.add.at(counts, (truth, predicted), 1)
    side = max(6.0, 0.5 * len(labels))
    figure = Figure(figsize=(side, 0.9 * side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(counts, cmap="Blues", vmax=counts.sum(1).max())
    names = [name if len(name) <= _NAME else f"{name[: _NAME - 1]}…" for name in labels]
    axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 3 else 0)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"{counts.trace()} of {counts.sum()} clips correct")
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if count > counts.max() / 2 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    figure.savefig(path, dpi=_DPI)


def curves(
    axis: str, points: Sequence[int], lines: Mapping[str, Sequence[Accuracy]], path: Path
) -> None:
    """Draw accuracy over the points of an axis, with 95 % intervals; one line per entry."""
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for name, accuracies in lines.items():
        values = [100 * accuracy.value for accuracy in accuracies]
        (line,) = axes.plot(points, values, marker="o", label=name)
        low, high = zip(*(accuracy.interval for accuracy in accuracies), strict=True)
        axes.fill_between(
            points, 100 * np.asarray(low), 100 * np.asarray(high),
            color=line.get_color(), alpha=0.15, linewidth=0,
        )  # fmt: skip
    axes.set_xlabel(axis)
    axes.set_ylabel("accuracy in %")
    axes.set_ylim(0, 101)
    axes.set_xticks(list(points))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=_DPI)


def reliability(results: Mapping[str, Reliability], path: Path) -> None:
    """Draw the share that is correct over the confidence, and how many clips have it: a panel for
    each entry."""
    figure = Figure(figsize=(4.2 * len(results), 4.4), layout="constrained")
    panels = figure.subplots(1, len(results), squeeze=False, sharey=True)[0]
    for axes, (name, result) in zip(panels, results.items(), strict=True):
        _draw_reliability(axes, result)
        axes.set_title(f"{name}: ECE {result.error:.1%}, by chance {result.chance:.1%}", fontsize=9)
        axes.set_xlabel("probability of the predicted class")
    panels[0].set_ylabel("share that is correct")
    figure.savefig(path, dpi=_SMALL_DPI)


def _draw_reliability(axes: Axes, result: Reliability) -> None:
    edges = np.linspace(0, 1, BINS + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    filled = np.asarray(result.counts) > 0
    columns = (centres, np.asarray(result.accuracies), np.asarray(result.counts))
    axes.bar(centres[filled], columns[1][filled], 1 / BINS, edgecolor="white")
    axes.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="--")
    for centre, accuracy, count in zip(*(column[filled] for column in columns), strict=True):
        axes.text(centre, accuracy, str(count), ha="center", va="bottom", fontsize=7)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.05)
