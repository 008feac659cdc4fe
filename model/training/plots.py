"""The figures of an evaluation, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model.training.measures import Accuracy

mpl.use("Agg")
_DPI = 120


def confusion(
    truth: NDArray[np.int64], predicted: NDArray[np.int64], labels: Sequence[str], path: Path
) -> None:
    """Draw the confusion matrix: a row for each true class, a column for each predicted one."""
    counts = np.zeros((len(labels), len(labels)), int)
    np.add.at(counts, (truth, predicted), 1)
    figure = Figure(figsize=(6, 5.4), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(counts, cmap="Blues", vmax=counts.sum(1).max())
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
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
