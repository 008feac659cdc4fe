"""The data folder of drones: windows of the sky and recordings, split by place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from model.arrays import Float32Array, UInt8Array
from model.media.reader import read_sound
from model.media.types import MediaError
from model.training.array_digest import array_digest
from model.training.data_folder import raise_faults, read_rows
from model.training.task import DataError

#: Classes in the order of the logits. Everything but drones and helicopters is `other`.
LABELS = ("drone", "helicopter", "other")
#: The class of each kind in the column `class`.
KINDS = {"drone": 0, "helicopter": 1, "airplane": 2, "bird": 2, "background": 2}
#: The kind of pictures and sounds without any object to classify.
BACKGROUND = "background"
#: Columns that labels.csv must have; others are ignored.
COLUMNS = ("file", "kind", "class", "clip", "split", "site", "box_x", "box_y", "box_w", "box_h")
#: Values of the column `kind` that are read. Whole frames are not: objects in them are too small.
CROP, SOUND = "crop", "sound"
#: Values of the column `split`: to train on, and to test on.
TRAINING, TEST = "train", "test"
#: Number of parts of the training split, each of which can be left out (`leave_out`).
FOLDS = 4
#: Sample rate of the recordings in Hz.
RATE = 16_000
#: Recordings that hold the same seconds (README of the data): they stay on one side of a split.
_SAME_SECONDS = (
    ("DRONE_009.wav", "DRONE_010.wav", "DRONE_011.wav"),
    ("DRONE_004.wav", "DRONE_008.wav"),
    ("DRONE_014.wav", "DRONE_016.wav", "DRONE_019.wav", "DRONE_027.wav"),
    ("HELICOPTER_001.wav", "HELICOPTER_007.wav"),
    ("HELICOPTER_003.wav", "HELICOPTER_009.wav"),
    ("HELICOPTER_005.wav", "HELICOPTER_012.wav"),
)


@dataclass(frozen=True)
class View:
    """A window of the sky, uint8 RGB [h, w, 3], with an object of some kind (of KINDS) in `box`
    (left, top, width, height) in pixels, or None where there is none or it is not known."""

    picture: UInt8Array
    kind: str
    clip: str
    site: str
    box: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class Recording:
    """The mono samples [n] at RATE of a recording, and the kind of thing that it is of."""

    samples: Float32Array
    kind: str
    group: str


@dataclass(frozen=True)
class Movie:
    """A media file of the folder's `clips`, and what it shows."""

    data: bytes
    kind: str
    name: str


@dataclass(frozen=True)
class Aircraft:
    """Pictures by clip of origin, and recordings."""

    clips: tuple[tuple[View, ...], ...]
    recordings: tuple[Recording, ...]

    @property
    def sha256(self) -> str:
        """Digest of all pictures and recordings, in their order."""
        pictures = [view.picture for views in self.clips for view in views]
        arrays: list[NDArray[Any]] = [
            *pictures,
            *(recording.samples for recording in self.recordings),
        ]
        return array_digest(arrays)


def load(folder: Path) -> tuple[Aircraft, Aircraft]:
    """Load what to train on and what to test on, from a folder of labels.csv and the files that
    it names. Raises DataError, naming the files, where one is missing, damaged or wrongly
    labelled, or where a class has no picture or no recording."""
    rows = read_rows(folder / "labels.csv", COLUMNS)
    faults = [
        f"labels.csv, line {number}: {fault}"
        for number, row in enumerate(rows, 2)
        if (fault := _row_fault(row))
    ]
    raise_faults(folder, faults)
    training, test = (
        _read(folder, [row for row in rows if row["split"] == split], faults)
        for split in (TRAINING, TEST)
    )
    raise_faults(folder, faults)
    missing = [*_missing(training, "to train on"), *_missing(test, "to test on")]
    raise_faults(folder, missing)
    return training, test


def load_movies(folder: Path) -> tuple[Movie, ...]:
    """Load the movies of `clips/labels.csv` (columns file, class), which are of the test split;
    none where there is no such file. Raises DataError, naming the files at fault."""
    table = folder / "clips" / "labels.csv"
    if not table.exists():
        return ()
    movies: list[Movie] = []
    faults: list[str] = []
    for row in read_rows(table, ("file", "class")):
        if row["class"] not in KINDS:
            faults.append(f"{row['file']}: class {row['class']!r} is not of {', '.join(KINDS)}")
            continue
        try:
            movies.append(Movie(_bytes(table.parent / row["file"]), row["class"], row["file"]))
        except DataError as exc:
            faults.append(f"{row['file']}: {exc}")
    raise_faults(table.parent, faults)
    return tuple(movies)


def leave_out(aircraft: Aircraft, fold: int) -> tuple[Aircraft, Aircraft]:
    """Split into all but a part, and that part: 1 to FOLDS, each with places and recordings of
    its own. Raises DataError where one of both then lacks a class."""
    sites = _folds([(clip[0].site, clip[0].kind) for clip in aircraft.clips])
    groups = _folds([(recording.group, recording.kind) for recording in aircraft.recordings])
    remaining, left_out = (
        Aircraft(
            tuple(c for c in aircraft.clips if (sites[c[0].site] == fold) == is_left_out),
            tuple(r for r in aircraft.recordings if (groups[r.group] == fold) == is_left_out),
        )
        for is_left_out in (False, True)
    )
    problems = [
        *_missing(remaining, f"outside fold {fold}"),
        *_missing(left_out, f"in fold {fold}"),
    ]
    if problems:
        raise DataError("; ".join(problems))
    return remaining, left_out


def _folds(members: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Return the fold, 1 to FOLDS, of each group of `members` (group, kind): the largest first,
    each to the fold with the fewest members of its kind."""
    sizes: dict[str, Counter[str]] = {}
    for group, kind in members:
        sizes.setdefault(group, Counter())[kind] += 1
    filled: dict[str, Counter[int]] = {kind: Counter() for kind in KINDS}
    folds: dict[str, int] = {}
    for group, counts in sorted(sizes.items(), key=lambda item: (-item[1].total(), item[0])):
        # Windows of the background lie in the places of the objects, which decide.
        objects = {kind: count for kind, count in counts.items() if kind != BACKGROUND} or counts
        kind = max(sorted(objects), key=lambda name: objects[name])
        fold = min(range(1, FOLDS + 1), key=lambda number: filled[kind][number])
        filled[kind][fold] += objects[kind]
        folds[group] = fold
    return folds


def _row_fault(row: Mapping[str, str]) -> str:
    """Return what is wrong with a row, or the empty string."""
    if row["class"] not in KINDS:
        return f"class {row['class']!r} is not one of {', '.join(KINDS)}"
    if row["split"] not in (TRAINING, TEST):
        return f"split {row['split']!r} is not {TRAINING} or {TEST}"
    if not row["clip"]:
        return "has no clip"
    if Path(row["file"]).is_absolute() or ".." in Path(row["file"]).parts:
        return f"file {row['file']!r} is not in the folder"
    try:
        _box(row)
    except ValueError:
        return "box_x, box_y, box_w and box_h are not all numbers, or all empty"
    return ""


def _box(row: Mapping[str, str]) -> tuple[float, float, float, float] | None:
    sides = [row[name] for name in ("box_x", "box_y", "box_w", "box_h")]
    if not any(sides):
        return None
    left, top, width, height = (float(side) for side in sides)
    return left, top, width, height


def _read(folder: Path, rows: Sequence[Mapping[str, str]], faults: list[str]) -> Aircraft:
    """Read the files of the rows; what is wrong with one is added to `faults`."""
    clips: dict[tuple[str, str], list[View]] = {}
    pieces: dict[tuple[str, str], list[Float32Array]] = {}
    for row in rows:
        key = row["class"], row["clip"]
        try:
            if row["kind"] == CROP:
                picture = _picture(folder / row["file"])
                view = View(picture, row["class"], row["clip"], row["site"], _box(row))
                clips.setdefault(key, []).append(view)
            elif row["kind"] == SOUND:
                pieces.setdefault(key, []).append(_samples(folder / row["file"]))
        except DataError as exc:
            faults.append(f"{row['file']}: {exc}")
    groups = {name: names[0] for names in _SAME_SECONDS for name in names}
    return Aircraft(
        tuple(tuple(views) for _, views in sorted(clips.items())),
        tuple(
            Recording(np.concatenate(parts), kind, groups.get(clip, clip))
            for (kind, clip), parts in sorted(pieces.items())
        ),
    )


def _picture(file: Path) -> UInt8Array:
    """Read a picture as uint8 RGB [h, w, 3]."""
    picture: Any = cv2.imdecode(np.frombuffer(_bytes(file), np.uint8), cv2.IMREAD_COLOR)
    if picture is None:
        raise DataError("is not a picture that can be read")
    return np.ascontiguousarray(picture[:, :, ::-1])


def _samples(file: Path) -> Float32Array:
    """Read a recording as mono samples [n] at RATE."""
    try:
        sound = read_sound(_bytes(file))
    except MediaError as exc:
        raise DataError(f"cannot be read: {exc}") from exc
    if sound.sample_rate != RATE:
        raise DataError(f"{sound.sample_rate} Hz instead of {RATE}")
    return np.asarray(sound.samples.mean(0), np.float32)


def _bytes(file: Path) -> bytes:
    try:
        data = file.read_bytes()
    except OSError as exc:
        raise DataError(f"cannot be read: {exc.strerror}") from exc
    if not data:
        raise DataError("is empty")
    return data


def _missing(aircraft: Aircraft, where: str) -> Iterator[str]:
    """Yield a message for each class without a picture or a recording."""
    for label, name in enumerate(LABELS):
        if not any(KINDS[clip[0].kind] == label for clip in aircraft.clips):
            yield f"no picture of {name} {where}"
        if not any(KINDS[recording.kind] == label for recording in aircraft.recordings):
            yield f"no recording of {name} {where}"
