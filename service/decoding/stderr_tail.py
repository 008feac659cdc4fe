"""The last lines that a child process wrote to stderr, for the log where it dies.

Libraries write warnings about uploaded files to stderr. An operator needs none of them, only the
last lines before a process died.
"""

from __future__ import annotations

import logging
import os
import threading

log = logging.getLogger("scmrl.decoding")

#: Bytes, lines and characters per line that are kept: Python 3.14 writes its own stack and C's.
_BYTES, _LINES, _WIDTH = 16_384, 80, 300
#: Longest wait in seconds for the pipe of a dead process to end: another process may hold it open.
_END_S = 1.0


class StderrTail:
    """A pipe for the stderr of a process, read by a thread until the process ends.

    `writer` is the file descriptor for the process; call `close_writer` once the process has it.
    Raises OSError.
    """

    def __init__(self) -> None:
        reader, self.writer = os.pipe()
        self._tail = b""
        self._thread = threading.Thread(
            target=self._read, args=(reader,), name="scmrl-stderr", daemon=True
        )
        self._thread.start()

    def close_writer(self) -> None:
        """Close our copy of `writer`, so that the thread ends when the process does."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def lines(self) -> list[str]:
        """Return the last lines of a process that has ended, without control characters."""
        self._thread.join(_END_S)
        text = self._tail.decode("utf-8", "replace")
        printable = ("".join(c if c.isprintable() else " " for c in x) for x in text.splitlines())
        return [line.rstrip()[:_WIDTH] for line in printable if line.strip()][-_LINES:]

    def _read(self, reader: int) -> None:
        with open(reader, "rb", buffering=0) as pipe:
            while data := pipe.read(_BYTES):
                self._tail = (self._tail + data)[-_BYTES:]
                log.debug("stderr of a decoding process: %r", data)


def quote_lines(lines: list[str]) -> str:
    """Format lines as the end of a log message, one quoted line each."""
    return "".join(f"\n  | {line}" for line in lines)
