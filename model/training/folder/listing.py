"""Find the clips of a data folder: DIR/CLASS/[GROUP/]FILE, by the names of files alone."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from model.regular_file import open_regular
from model.training.folder.clip_files import ENDINGS, ClipFiles, Kind, kind_of
from model.training.folder.findings import Finding
from model.training.task import DataError

#: Files that systems leave in folders.
IGNORED = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
#: Kinds of files of one name that make a clip.
PAIRS: frozenset[frozenset[Kind]] = frozenset(
    {
        frozenset({"movie"}),
        frozenset({"sound"}),
        frozenset({"picture"}),
        frozenset({"sound", "picture"}),
        frozenset({"movie", "sound"}),
    }
)
#: Accepted file types by their endings, for messages.
ACCEPTED = "; ".join(f"{kind}: {', '.join(endings)}" for kind, endings in ENDINGS.items())
#: Pictures of telephones that are not read.
_HEIF = (".heic", ".heif")


@dataclass(frozen=True)
class Listing:
    """The clips of a data folder, in order of their names, and what is wrong with names."""

    clips: tuple[ClipFiles, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, sorted by name."""
        return tuple(sorted({clip.label for clip in self.clips}))


def list_folder(data: Path) -> Listing:
    """List DIR/CLASS/[GROUP/]FILE. Raises DataError where the folder cannot be read."""
    try:
        entries = sorted(data.iterdir())
    except OSError as exc:
        raise DataError(f"{data}: cannot be read: {exc.strerror}; {layout(data)}") from exc
    clips: list[ClipFiles] = []
    findings: list[Finding] = []
    for entry in entries:
        if _is_ignored(entry):
            continue
        if not entry.is_dir():
            if kind_of(entry):
                message = f"lies in no class; move it to {data / 'CLASS' / entry.name}"
                findings.append(Finding("wrong name", entry.name, message))
            continue
        folders: list[OSError] = []  # those that cannot be read
        files = [(path, path.relative_to(data).as_posix()) for path in _files(entry, folders)]
        findings += [_unreadable_folder(data, error) for error in folders]
        if not files and not folders:
            message = f"the folder holds no file; it needs clips ({ACCEPTED})"
            findings.append(Finding("empty", entry.name, message))
        pairs, wrong = pair(files, normalize(entry.name))
        clips += pairs
        findings += wrong
    return Listing(tuple(clips), tuple(findings))


def pair(files: Iterable[tuple[Path, str]], label: str) -> tuple[list[ClipFiles], list[Finding]]:
    """Join files of one folder and name (`a.wav`, `a.jpg`) to clips of a class.

    Each file comes with its name relative to the data folder; a folder between the class's and
    the file is its group.
    """
    clips: list[ClipFiles] = []
    findings: list[Finding] = []
    by_stem: dict[Path, list[tuple[Kind, Path, str]]] = {}
    for path, name in files:
        kind = kind_of(path)
        if wrong := _unusable(path, name):
            findings.append(wrong)
            continue
        if kind is None:
            message = f"unknown file name extension; accepted are {ACCEPTED}"
            if path.suffix.lower() in _HEIF:
                message = (
                    "HEIF pictures are not read; convert them to JPEG (an iPhone takes JPEG with "
                    "Settings, Camera, Formats, Most Compatible)"
                )
            findings.append(Finding("wrong name", name, message))
            continue
        by_stem.setdefault(path.with_suffix(""), []).append((kind, path, name))
    for stem, members in by_stem.items():
        name = " + ".join(name for _, _, name in members)
        kinds = [kind for kind, _, _ in members]
        if len(set(kinds)) < len(kinds) or frozenset(kinds) not in PAIRS:
            message = (
                "have the same name, so they would be one clip, which is a movie, a sound or a "
                "picture, or a sound with a movie or a picture; rename one of them"
            )
            findings.append(Finding("wrong name", name, message))
            continue
        group = Path(members[0][2]).parent.as_posix().partition("/")[2]
        ordered = tuple(sorted((kind, path) for kind, path, _ in members))
        clips.append(ClipFiles(name, label, group or str(stem), ordered))
    return clips, findings


def _unusable(path: Path, name: str) -> Finding | None:
    """Return what is wrong with a file before its content is known, or None."""
    try:
        name.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(name).decode(errors="backslashreplace")
        return Finding("wrong name", shown, "the name is not in UTF-8; rename the file or folder")
    try:
        with open_regular(path, sys.maxsize):
            return None
    except OSError as exc:
        return Finding("unreadable", name, exc.strerror or str(exc))


def _unreadable_folder(data: Path, error: OSError) -> Finding:
    name = os.path.relpath(os.fsencode(error.filename), os.fsencode(data))
    message = f"the folder cannot be read: {error.strerror}"
    return Finding("unreadable", name.decode(errors="backslashreplace"), message)


def _files(folder: Path, unreadable: list[OSError]) -> Iterator[Path]:
    """Yield the files below a folder, in order, also of folders that links lead to.

    Adds the errors of folders that cannot be read to `unreadable`. Each folder is listed once, and
    none that `folder` lies in.
    """
    root = folder.resolve()
    seen = {root, *root.parents}
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=unreadable.append):
        candidates = sorted(name for name in folders if not name.startswith("."))
        folders.clear()
        for name in candidates:
            target = Path(parent, name).resolve()
            if target not in seen:
                seen.add(target)
                folders.append(name)
        yield from (
            Path(parent, name) for name in sorted(names) if not _is_ignored(Path(parent, name))
        )


def _is_ignored(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in IGNORED


def normalize(label: str) -> str:
    """Return a label with composed characters: macOS decomposes `ä` in the names of files."""
    return unicodedata.normalize("NFC", label)


def layout(data: Path) -> str:
    """Return what a data folder or a table must look like, for messages."""
    if data.suffix.lower() == ".csv":
        return "it must have a row for each clip, with columns file and label"
    return (
        f"it must have a folder for each class ({data / 'CLASS' / 'CLIP.mp4'}), or be a .csv file "
        "with columns file and label"
    )
