"""The keys in force, which are read again while the service runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from service.keys import Keys, KeysError, read
from service.settings import Settings

log = logging.getLogger("scmrl.keys")

#: Seconds between two looks at the files of keys.
_LOOK_S = 1.0
_Look = tuple[tuple[int, ...] | None, ...]


class Keyring:
    """Holds the keys and reads them again when a file of theirs changes or `hangups` has grown.

    Keys that cannot be read leave the old ones in force, and one error line. `keys` is replaced as
    a whole, so that any thread may read it.
    """

    def __init__(
        self, settings: Settings, keys: Keys, hangups: Callable[[], int] = lambda: 0
    ) -> None:
        self.keys = keys
        self._settings = settings
        self._hangups = hangups
        self._seen = (hangups(), self._look())
        self._stopping = threading.Event()

    def watch(self) -> None:
        """Look once a second, until `stop`; a thread's whole work, since a disk may hang."""
        while not self._stopping.wait(_LOOK_S):
            now = (self._hangups(), self._look())
            if now != self._seen:
                self._seen = now
                self._read()

    def stop(self) -> None:
        """Let `watch` end."""
        self._stopping.set()

    def _read(self) -> None:
        try:
            self.keys = read(self._settings)
        except KeysError as exc:
            log.error("the keys cannot be read again, and the old ones stay in force: %s", exc)
        else:
            log.info("the keys have been read again: %d API keys", len(self.keys.api))

    def _look(self) -> _Look:
        return tuple(
            _stat(f) for f in (self._settings.api_keys_file, self._settings.admin_key_file)
        )


def _stat(file: Path | None) -> tuple[int, ...] | None:
    try:
        now = file.stat() if file is not None else None
    except OSError:
        return None
    return (now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns) if now else None
