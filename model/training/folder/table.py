"""Read a table of clips: a .csv file with columns file, label, split, group, start, end."""

from __future__ import annotations

import csv
import math
import unicodedata
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from io import StringIO
from pathlib import Path

from model.training.folder.clip_files import ClipFiles
from model.training.folder.findings import Finding
from model.training.folder.listing import Listing, normalize, pair
from model.training.folder.split import PARTS
from model.training.task import DataError

REQUIRED = ("file", "label")
OPTIONAL = ("split", "group", "start", "end")


def list_table(table: Path) -> Listing:
    """List the clips of a table; its files are relative to the table's folder.

    A row is a clip, or the part of one from `start` to `end` in seconds. Rows of files of one name
    (`a.wav`, `a.jpg`) with the same other columns are one clip. Raises DataError where the file
    cannot be read or lacks a column.

    As spreadsheets write tables, columns may be separated by commas, semicolons or tabs, and
    seconds may have a decimal comma. Paths may have backslashes.
    """
    clips: dict[tuple[str, ...], ClipFiles] = {}
    findings: list[Finding] = []
    lines: dict[tuple[str, ...], int] = {}  # of the first row of a file, or of a part of it
    for number, row in _rows(table):
        location = f"line {number}: {row['file'] or '(no file)'}"
        if problem := _problem(table, row):
            findings.append(Finding("wrong name", location, problem))
            continue
        if problem := _repeated(number, row, lines):
            findings.append(Finding("duplicate", location, problem))
            continue
        stem = str(Path(row["file"]).with_suffix(""))
        key = (stem, *(row[name] for name in ("label", *OPTIONAL)))
        previous = clips.get(key)
        files = [(path, _name(table, path)) for _, path in previous.files] if previous else []
        files.append((table.parent / row["file"], row["file"]))
        pairs, wrong = pair(files, row["label"])
        findings += wrong
        if pairs:
            span = (float(row["start"]), float(row["end"])) if row["start"] else None
            name = pairs[0].name + (f" {row['start']}-{row['end']} s" if span else "")
            group = row["group"] or str(table.parent / stem)
            clips[key] = ClipFiles(
                name, row["label"], group, pairs[0].files, span, row["split"]
            )  # fmt: skip
    return Listing(tuple(sorted(clips.values(), key=lambda x: x.name)), tuple(findings))


def _name(table: Path, path: Path) -> str:
    """Return the name of a file of a row: relative to the table, if it lies below it."""
    folder = table.parent
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    """Return the rows with their line numbers; columns that are absent are empty."""
    try:
        text = _text(table)
        head = text.partition("\n")[0]
        reader = csv.reader(StringIO(text, newline=""), delimiter=max(",;\t", key=head.count))
        names = [name.strip().lower() for name in next(reader, [])]
        missing = [name for name in REQUIRED if name not in names]
        if missing:
            raise DataError(
                f"{table}: line 1: no column {' and no '.join(missing)}; columns are "
                f"{', '.join(REQUIRED)} and, not required, {', '.join(OPTIONAL)}; there are "
                f"{', '.join(names) or 'none'}"
            )
        return [
            (reader.line_num, _row(table.parent, dict(zip(names, values, strict=False))))
            for values in reader
            if any(values)
        ]
    except OSError as exc:
        raise DataError(f"{table}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise DataError(f"{table}: not in UTF-8; in Excel, save it as CSV UTF-8") from exc
    except csv.Error as exc:
        raise DataError(f"{table}: not a table: {exc}") from exc


def _text(table: Path) -> str:
    """Return the text of a table in UTF-8, or in UTF-16 with a byte order mark, as Excel writes."""
    data = table.read_bytes()
    return data.decode("utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig")


def _row(folder: Path, values: dict[str, str]) -> dict[str, str]:
    """Return all columns of a row, in the form that the rest reads."""
    row = {name: values.get(name, "").strip() for name in (*REQUIRED, *OPTIONAL)}
    row["file"] = _existing(folder, row["file"])
    row["label"] = normalize(row["label"])
    return row | {name: row[name].replace(",", ".") for name in ("start", "end")}


def _existing(folder: Path, name: str) -> str:
    """Return `name` as the folder has it: with slashes, its characters composed or decomposed."""
    names = [name, name.replace("\\", "/")]
    forms = [unicodedata.normalize(form, each) for each in names for form in ("NFC", "NFD")]
    return next((each for each in (*names, *forms) if (folder / each).is_file()), name)


def _repeated(number: int, row: dict[str, str], lines: dict[tuple[str, ...], int]) -> str:
    """Return the problem of a row whose clip an earlier one has, or the empty string.

    Two rows of a clip could put it into two classes, or into the clips to train on and to test on.
    """
    span = [str(float(row[name])) for name in ("start", "end") if row[name]]
    first = lines.setdefault((Path(row["file"]).as_posix(), *span), number)
    return "" if first == number else f"line {first} has the same clip; keep one of them"


def _problem(table: Path, row: dict[str, str]) -> str:
    """Return what is wrong with a row, or the empty string."""
    if not row["file"] or not row["label"]:
        return "file and label must not be empty"
    if not (table.parent / row["file"]).is_file():
        return f"no such file in {table.parent}"
    if row["split"] and row["split"] not in PARTS:
        return f"split {row['split']!r}: must be one of {', '.join(PARTS)}, or empty"
    if bool(row["start"]) != bool(row["end"]):
        return "start and end: both must be there, or none"
    if row["start"]:
        try:
            start, end = float(row["start"]), float(row["end"])
        except ValueError:
            start, end = math.nan, math.nan
        if not 0 <= start < end < math.inf:
            return f"start {row['start']}, end {row['end']}: must be seconds with 0 <= start < end"
    return ""
