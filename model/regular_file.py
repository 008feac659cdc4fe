"""Read files by path, where the path may name a FIFO or a device."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def read_regular(file: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file of at most `max_bytes` bytes.

    Raises OSError, also for FIFOs and devices, whose reads could block forever.
    """
    with open_regular(file, max_bytes) as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(None, f"grew beyond {max_bytes} bytes while it was read", str(file))
    return content


@contextmanager
def open_regular(file: Path, max_bytes: int) -> Iterator[BinaryIO]:
    """Open a regular file of at most `max_bytes` bytes. Raises OSError, as `read_regular` does."""
    # Without O_NONBLOCK, opening a FIFO blocks until it has a writer. Regular files ignore it.
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb", closefd=True) as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(None, "is not a regular file", str(file))
        if status.st_size > max_bytes:
            problem = f"has {status.st_size} bytes; at most {max_bytes} are accepted"
            raise OSError(None, problem, str(file))
        yield stream
