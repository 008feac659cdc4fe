"""The files of checkpoints, watched for changes, on disks that may hang."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

from model.checkpoint import CARD, WEIGHTS

log = logging.getLogger("scmrl.files")

#: Of each file of a checkpoint: its inode, size in bytes, and time of change in ns.
FileStates = tuple[tuple[int, int, int], ...]
#: Seconds after which a disk that has not responded counts as hanging.
_HANGS_S = 5.0


def file_states(folder: Path) -> FileStates | None:
    """Return the state of a checkpoint's files; None if one of them cannot be read."""
    try:
        stats = [(folder / name).stat() for name in (CARD, WEIGHTS)]
    except OSError:  # no such file, but also a disk that is broken or not there any more
        return None
    return tuple((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats)


def may_have_card(folder: Path) -> bool:
    """Return whether a folder has a card, or may have one because its disk hangs."""
    answers: list[bool] = []
    thread = threading.Thread(
        target=lambda: answers.append(os.path.exists(folder / CARD)),
        name="scmrl-files",
        daemon=True,
    )
    thread.start()
    thread.join(_HANGS_S)
    return answers[0] if answers else thread.is_alive()


class FileWatch:
    """Compares the files of each checkpoint of `folder` with those that it was loaded from."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loaded: dict[str, FileStates] = {}
        self._problems: dict[str, str] = {}
        self._checks: dict[str, tuple[threading.Thread, float]] = {}

    def note(self, name: str, loaded: FileStates | None) -> None:
        """Note the files that a checkpoint has been loaded from."""
        if loaded is not None:
            self._loaded[name] = loaded
        self._problems.pop(name, None)

    def is_intact(self, name: str) -> bool:
        """Return whether the files were unchanged at the last check."""
        return name not in self._problems

    def check(self, name: str) -> None:
        """Compare the files in a thread; log once that they are missing, changed or unreadable.

        A disk that hangs blocks one thread per checkpoint, and no other checks.
        """
        thread, began = self._checks.get(name, (None, 0.0))
        if thread is None or not thread.is_alive():
            thread = threading.Thread(
                target=self._compare, args=(name,), name="scmrl-files", daemon=True
            )
            self._checks[name] = thread, time.monotonic()
            thread.start()
        elif time.monotonic() - began > _HANGS_S:
            self._report(name, "cannot be read: their disk does not respond")

    def _compare(self, name: str) -> None:
        now = file_states(self._folder / name)
        if now is None:
            self._report(name, "are missing: it stays in service until this process ends")
        elif now != self._loaded.get(name):
            self._report(name, "have changed: the loaded version stays in service until a reload")
        else:
            self._problems.pop(name, None)

    def _report(self, name: str, problem: str) -> None:
        if problem != self._problems.get(name):
            self._problems[name] = problem
            log.error("the files of %s %s", name, problem)
