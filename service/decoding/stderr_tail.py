"""What a helper process writes to stderr: its last lines, for the log should it die.

Libraries write about strangers' files there, which is of no use to an operator; what a process
writes before it dies is.
"""

from __future__ import annotations

import logging
import os
import threading

log = logging.getLogger("scmrl.decoding")

#: Bytes, lines and characters of a line that are kept: Python 3.14 writes its own stack and C's.
_BYTES, _LINES, _WIDTH = 16_384, 80, 300
#: Longest wait for the pipe of a dead process to end, in seconds: another may hold it still.
_END_S = 1.0


class StderrTail:
    """A pipe to be a process's stderr, read by a thread until the process has ended.

    `writer` is the end for the process; close it here once the process has it. Raises OSError.
    """

    def __init__(self) -> None:
        reader, self.writer = os.pipe()
        self._kept = b""
        self._thread = threading.Thread(
            target=self._read, args=(reader,), name="scmrl-stderr", daemon=True
        )
        self._thread.start()

    def close_writer(self) -> None:
        """Close the end that the process has by now; the thread ends when the process does."""
        if self.writer >= 0:
            os.close(self.writer)
            self.writer = -1

    def lines(self) -> list[str]:
        """The last lines of a process that has ended, without what a terminal would obey."""
        self._thread.join(_END_S)
        text = self._kept.decode("utf-8", "replace")
        printable = ("".join(c if c.isprintable() else " " for c in x) for x in text.splitlines())
        return [line.rstrip()[:_WIDTH] for line in printable if line.strip()][-_LINES:]

    def _read(self, reader: int) -> None:
        with open(reader, "rb", buffering=0) as pipe:
            while data := pipe.read(_BYTES):
                self._kept = (self._kept + data)[-_BYTES:]
                log.debug("a decoding process writes: %r", data)


def quoted(lines: list[str]) -> str:
    """The lines as the end of a message of log; nothing where there are none."""
    return "".join(f"\n  | {line}" for line in lines)
