"""Read files by path, where the path may name a FIFO or a device."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def read_regular(file: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file of at most `max_bytes` bytes.

    Raises OSError, also for FIFOs and devices, whose reads could block forever.
    """
    # Without O_NONBLOCK, opening a FIFO blocks until it has a writer. Regular files ignore it.
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb", closefd=True) as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(None, "is not a regular file", str(file))
        if status.st_size > max_bytes:
            problem = f"has {status.st_size} bytes; at most {max_bytes} are accepted"
            raise OSError(None, problem, str(file))
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(None, f"grew beyond {max_bytes} bytes while it was read", str(file))
    return content
