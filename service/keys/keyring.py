"""The keys in force, which are read again while the service runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from service.keys.key_file import Keys, KeysError, exposed, read
from service.settings import Settings

log = logging.getLogger("scmrl.keys")

#: Seconds between two looks at the files of keys, and for which a file must not have changed
#: before it is read: a file that is being written is not whole.
_LOOK_S = 1.0
#: The count of SIGHUPs, and of each file its inode, size and times; None where there is none.
_Look = tuple[int, tuple[tuple[int, ...] | None, ...]]


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
        self._warnings = set(exposed(settings))
        self._tried = self._last = self._look()
        self._stopping = threading.Event()

    def watch(self) -> None:
        """Look once a second, until `stop`; a thread's whole work, since a disk may hang.

        Whatever goes wrong is logged, once as long as it stays the same, and looking goes on.
        """
        trouble = None
        while not self._stopping.wait(_LOOK_S):
            try:
                self.look()
            except Exception as exc:
                if repr(exc) != trouble:
                    log.exception("the keys cannot be looked after; it is tried every second")
                trouble = repr(exc)
            else:
                trouble = None

    def look(self) -> None:
        """Read keys that have changed, once they have been the same at two looks."""
        now = self._look()
        is_settled, self._last = now == self._last, now
        if now == self._tried or not is_settled:
            return
        error, keys = None, self.keys
        try:
            keys = read(self._settings)
        except KeysError as exc:
            error = exc
        if self._look() != now:
            return  # what has been read may be half of a file
        self._tried = now
        if error is not None:
            log.error("the keys cannot be read again, and the old ones stay in force: %s", error)
            return
        self.keys = keys
        log.info("the keys have been read again: %d API keys", len(keys.api))
        self._warn()

    def stop(self) -> None:
        """Let `watch` end."""
        self._stopping.set()

    def _warn(self) -> None:
        warnings = set(exposed(self._settings))
        for warning in sorted(warnings - self._warnings):
            log.warning("%s", warning)
        self._warnings = warnings

    def _look(self) -> _Look:
        files = (self._settings.api_keys_file, self._settings.admin_key_file)
        return self._hangups(), tuple(_status(file) for file in files)


def _status(file: Path | None) -> tuple[int, ...] | None:
    try:
        now = file.stat() if file is not None else None
    except OSError:
        return None
    return (now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns) if now else None
