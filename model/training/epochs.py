"""The metrics of each epoch of a training run, and their table, metrics.csv."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path

from model.whole_file import replacing

METRICS = "metrics.csv"
_MEANS = ("epoch", "learning_rate", "loss", "alignment", "fused")


@dataclass(frozen=True)
class Accuracies:
    """Accuracies on the development clips, 0 to 1.

    `fused`: with all streams. `alone`: with one stream, by its name. `loss`: the mean
    cross-entropy of them all.
    """

    fused: float
    alone: Mapping[str, float]
    loss: float = field(default=0.0, compare=False)

    @property
    def score(self) -> float:
        """The mean of them all, by which the best weights are chosen unless the loss is."""
        return sum([self.fused, *self.alone.values()]) / (1 + len(self.alone))

    def __str__(self) -> str:
        alone = "".join(f", {name} alone {value:.1%}" for name, value in self.alone.items())
        return f"all streams {self.fused:.1%}{alone}"


@dataclass(frozen=True)
class EpochMetrics:
    """Mean losses of one epoch, its last learning rate, and the accuracies after it."""

    epoch: int
    learning_rate: float
    loss: float
    alignment: float
    accuracies: Accuracies

    def columns(self) -> dict[str, float]:
        """Return the epoch's row of the table, by the column's name."""
        values = (self.epoch, self.learning_rate, self.loss, self.alignment, self.accuracies.fused)
        return {**dict(zip(_MEANS, values, strict=True)), **self.accuracies.alone}

    def __str__(self) -> str:
        return (
            f"epoch {self.epoch:3d}  loss {self.loss:.3f}  alignment {self.alignment:.3f}  "
            f"held-out accuracy: {self.accuracies}"
        )


def append(table: Path, metrics: EpochMetrics) -> None:
    """Add the epoch's row, in place of rows that a killed run wrote from this epoch on.

    Raises ValueError where the file is not a table of epochs, OSError where it cannot be written.
    """
    row = {name: f"{value:.6g}" for name, value in metrics.columns().items()}
    existing = rows(table, tuple(metrics.accuracies.alone))
    earlier = [each for each in existing if int(each["epoch"]) < metrics.epoch]
    text = StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=list(row))
    writer.writeheader()
    writer.writerows([*earlier, row])
    with replacing(table) as file:
        file.write(text.getvalue().encode())


def rows(table: Path, streams: Sequence[str]) -> list[dict[str, str]]:
    """Read the rows of a table of epochs; an empty list where it does not exist.

    `streams` are those with an accuracy of their own. Raises ValueError where the file holds
    something else.
    """
    if not table.exists():
        return []
    names = [*_MEANS, *streams]
    with table.open(newline="") as file:
        try:
            lines = list(csv.reader(file))
        except (csv.Error, UnicodeDecodeError) as exc:
            raise ValueError(f"not a table of epochs: {exc}") from exc
    for number, line in enumerate(lines, start=1):
        is_row = line == names if number == 1 else line and line[0].isdecimal()
        if not is_row or len(line) != len(names):
            raise ValueError(f"not a table of epochs: line {number} must have {', '.join(names)}")
    return [dict(zip(names, line, strict=True)) for line in lines[1:]]
