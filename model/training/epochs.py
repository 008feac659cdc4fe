"""What is measured of each epoch of a training, and its table, metrics.csv."""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

METRICS = "metrics.csv"


class Accuracies(NamedTuple):
    """Of both streams, the sound alone and the picture alone, 0 to 1, on the held-out clips."""

    fused: float
    audio: float
    visual: float

    @property
    def score(self) -> float:
        """What the best weights are chosen by."""
        return (self.fused + self.audio + self.visual) / 3

    def __str__(self) -> str:
        return f"both {self.fused:.1%}, picture {self.visual:.1%}, sound {self.audio:.1%}"


@dataclass(frozen=True)
class EpochMetrics:
    """Means over one epoch; accuracies (0 to 1) on the held-out development clips."""

    epoch: int
    learning_rate: float
    loss: float
    alignment: float
    fused: float
    audio: float
    visual: float

    @property
    def accuracies(self) -> Accuracies:
        return Accuracies(self.fused, self.audio, self.visual)

    def __str__(self) -> str:
        return (
            f"epoch {self.epoch:3d}  loss {self.loss:.3f}  alignment {self.alignment:.3f}  "
            f"held-out accuracy: {self.accuracies}"
        )


def append(table: Path, metrics: EpochMetrics) -> None:
    """Add the epoch's row, replacing whatever a killed run wrote from this epoch on.

    Raises ValueError where the table is none of epochs, OSError where it cannot be written.
    """
    row = {name: f"{value:.6g}" for name, value in asdict(metrics).items()}
    kept = [before for before in rows(table) if int(before["epoch"]) < metrics.epoch]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(row))
        writer.writeheader()
        writer.writerows([*kept, row])


def rows(table: Path) -> list[dict[str, str]]:
    """The rows of a table of epochs; none where there is no such file.

    Raises ValueError where it holds something else.
    """
    if not table.exists():
        return []
    names = [field.name for field in fields(EpochMetrics)]
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
