"""The figures of an evaluation, as PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model.training.measures import Accuracy
from model.training.reliability import BINS, Reliability

mpl.use("Agg")
_DPI = 120


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
    axes.set_xticks(range(len(labels)), labels, rotation=90 if max(map(len, labels)) > 3 else 0)
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


def reliability(result: Reliability, path: Path) -> None:
    """Draw the share that is correct over the confidence, and how many clips have it."""
    figure = Figure(figsize=(5.4, 5.4), layout="constrained")
    axes = figure.add_subplot()
    edges = np.linspace(0, 1, BINS + 1)
    centres = (edges[1:] + edges[:-1]) / 2
    filled = np.asarray(result.counts) > 0
    axes.bar(centres[filled], np.asarray(result.accuracies)[filled], 1 / BINS, edgecolor="white")
    axes.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="--")
    for centre, accuracy, count in zip(
        centres[filled],
        np.asarray(result.accuracies)[filled],
        np.asarray(result.counts)[filled],
        strict=True,
    ):
        axes.text(centre, accuracy, str(count), ha="center", va="bottom", fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("probability of the predicted class")
    axes.set_ylabel("share that is correct")
    axes.set_title(f"expected calibration error {result.error:.1%}")
    figure.savefig(path, dpi=_DPI)
