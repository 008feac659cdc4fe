"""Reading of files by path, where the path may name something that is not a file."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read_regular(file: Path) -> bytes:
    """The content of a regular file.

    A FIFO or a device is refused at once: reading it could wait without end. Raises OSError.
    """
    # Without O_NONBLOCK, opening a FIFO waits for a writer. Regular files ignore it.
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb", closefd=True) as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(None, "is not a regular file", str(file))
        return stream.read()
