"""Whether the files of the checkpoints that are served are still those that were loaded."""

from __future__ import annotations

import logging
from pathlib import Path

log = logging.getLogger("scmrl.files")

CARD = "card.json"
#: Of each file of a checkpoint: its inode, size in bytes, and time of change in ns.
Files = tuple[tuple[int, int, int], ...]


def files(folder: Path) -> Files | None:
    """What a checkpoint's files look like from outside; None where one cannot be looked at."""
    from model.checkpoint import WEIGHTS

    try:
        stats = [(folder / name).stat() for name in (CARD, WEIGHTS)]
    except OSError:  # no such file, but also a disk that is broken or not there any more
        return None
    return tuple((one.st_ino, one.st_size, one.st_mtime_ns) for one in stats)


class FileWatch:
    """Compares files with those that each checkpoint of `folder` was loaded from."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loaded: dict[str, Files] = {}
        self._amiss: dict[str, str] = {}

    def note(self, name: str, loaded: Files | None) -> None:
        """Note the files that a checkpoint has been loaded from."""
        if loaded is not None:
            self._loaded[name] = loaded
        self._amiss.pop(name, None)

    def intact(self, name: str) -> bool:
        """Whether the files were unchanged at the last look."""
        return name not in self._amiss

    def look(self, name: str) -> None:
        """Look at the files, and log once that they are gone or have changed.

        A disk that hangs keeps the calling thread waiting.
        """
        amiss = None
        now = files(self._folder / name)
        if now is None:
            amiss = "are gone: it is served until this process ends"
        elif now != self._loaded.get(name):
            amiss = "have changed: it is served as it was, until it is loaded again"
        if amiss is None:
            self._amiss.pop(name, None)
        elif amiss != self._amiss.get(name):
            self._amiss[name] = amiss
            log.error("the files of %s %s", name, amiss)
