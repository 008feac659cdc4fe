"""The table of a checkpoint's clips and their parts, split.csv: which of them training has seen."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from io import StringIO
from pathlib import Path

from model.training.folder.split import PARTS, TEST, TRAIN
from model.training.task import DataError
from model.whole_file import replacing

#: The table, beside a checkpoint.
SPLIT = "split.csv"
#: The part of clips that were left out.
LEFT_OUT = "left out"
_COLUMNS = ("file", "label", "group", "split", "sha256")


def write_split(folder: Path, rows: Iterable[tuple[str, object, object, str, str]]) -> None:
    """Write split.csv, whole or not at all: clips that are not in it would be tested on.

    Rows are the name of a clip, its class and group, its part, and the digest of its content.
    Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = StringIO(newline="")
    csv.writer(text).writerows([_COLUMNS, *rows])
    with replacing(folder / SPLIT) as file:
        file.write(text.getvalue().encode())


def recorded_parts(folder: Path) -> dict[str, str]:
    """Return the part of each clip in a checkpoint's split.csv by its digest: one of PARTS, or
    LEFT_OUT.

    Raises DataError where split.csv is missing or damaged.
    """
    file = folder / SPLIT
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        splits = {row["split"] for row in rows}
        if TRAIN not in splits or not splits <= {*PARTS, LEFT_OUT}:
            raise KeyError("split")
        # Of a clip that was left out as a copy of another, the other's part counts.
        rows.sort(key=lambda row: row["split"] != LEFT_OUT)
        return {row["sha256"]: row["split"] for row in rows}
    except OSError as exc:
        raise DataError(f"{file}: {exc.strerror}; it lists the clips that were trained on") from exc
    except (csv.Error, KeyError, UnicodeDecodeError) as exc:
        raise DataError(f"{file}: damaged; it must have columns {', '.join(_COLUMNS)}") from exc


def seen_digests(folder: Path) -> set[str]:
    """Return the digests of the clips that a checkpoint was trained on and chosen by, and of those
    that were left out. Raises DataError, as `recorded_parts`.
    """
    return {digest for digest, part in recorded_parts(folder).items() if part != TEST}
