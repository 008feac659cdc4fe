"""Data folders of tasks: tables of files, and one error for all that is wrong with them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from model.training.task import DataError

#: Greatest number of faults that one message names.
_MAX_FAULTS = 8


def read_rows(table: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a .csv file with these columns of it; an absent cell is empty.

    Raises DataError where the file is missing or damaged, or lacks a column.
    """
    try:
        with table.open(newline="", encoding="utf-8") as lines:
            reader = csv.DictReader(lines)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"{table}: has no column {', '.join(missing)}")
            return [{name: row[name] or "" for name in columns} for row in reader]
    except FileNotFoundError:
        raise DataError(f"{table}: not found") from None
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise DataError(f"{table}: cannot be read: {exc}") from exc


def raise_faults(folder: Path, faults: Iterator[str] | Sequence[str]) -> None:
    """Raise DataError that names the first faults, if any."""
    faults = list(faults)
    if not faults:
        return
    more = f"; and {len(faults) - _MAX_FAULTS} more" if len(faults) > _MAX_FAULTS else ""
    raise DataError(f"{folder}: " + "; ".join(faults[:_MAX_FAULTS]) + more)
