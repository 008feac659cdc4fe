"""The current keys, reloaded while the service runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from service.keys.key_file import Keys, KeysError, exposed, read
from service.settings import Settings

log = logging.getLogger("scmrl.keys")

#: Seconds between two checks of the key files. A file must be unchanged for as long before it is
#: read, since it may be incomplete while it is written.
_CHECK_S = 1.0
#: The count of SIGHUPs, and inode, size and times of each file, None for a missing one.
_Fingerprint = tuple[int, tuple[tuple[int, ...] | None, ...]]


class Keyring:
    """Holds the keys; reloads them when one of their files changes or `hangups` grows.

    If they cannot be read, the old ones stay, with one error in the log. `keys` is replaced as a
    whole: any thread may read it.
    """

    def __init__(
        self, settings: Settings, keys: Keys, hangups: Callable[[], int] = lambda: 0
    ) -> None:
        self.keys = keys
        self._settings = settings
        self._hangups = hangups
        self._warnings = set(exposed(settings))
        self._loaded = self._last = self._fingerprint()
        self._stopping = threading.Event()

    def watch(self) -> None:
        """Check once per second until `stop`; run it in a thread, since a disk may hang.

        Each error is logged once while it persists.
        """
        last_error = None
        while not self._stopping.wait(_CHECK_S):
            try:
                self.check()
            except Exception as exc:
                if repr(exc) != last_error:
                    log.exception("checking the keys failed; retrying every second")
                last_error = repr(exc)
            else:
                last_error = None

    def check(self) -> None:
        """Reload keys that have changed and are the same as at the check before."""
        now = self._fingerprint()
        is_settled, self._last = now == self._last, now
        if now == self._loaded or not is_settled:
            return
        error, keys = None, self.keys
        try:
            keys = read(self._settings)
        except KeysError as exc:
            error = exc
        if self._fingerprint() != now:
            return  # the file may have been read in part
        self._loaded = now
        if error is not None:
            log.error("the keys cannot be reloaded; the old ones stay in use: %s", error)
            return
        self.keys = keys
        log.info("keys reloaded: %d API keys", len(keys.api))
        self._warn()

    def stop(self) -> None:
        """End `watch`."""
        self._stopping.set()

    def _warn(self) -> None:
        warnings = set(exposed(self._settings))
        for warning in sorted(warnings - self._warnings):
            log.warning("%s", warning)
        self._warnings = warnings

    def _fingerprint(self) -> _Fingerprint:
        files = (self._settings.api_keys_file, self._settings.admin_key_file)
        return self._hangups(), tuple(_status(file) for file in files)


def _status(file: Path | None) -> tuple[int, ...] | None:
    try:
        now = file.stat() if file is not None else None
    except OSError:
        return None
    return (now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns) if now else None
