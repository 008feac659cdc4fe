"""Memory that the C library keeps after it was freed."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

import pytest

MIB = 1024 * 1024
#: Bytes of a block, which is too small for a mapping of its own.
_BLOCK = 64 * 1024

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")


def resident() -> int:
    """Return the resident memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class UnreturnedMemory:
    """`size` freed bytes that malloc does not return to the kernel, as a block above is in use."""

    def __init__(self, size: int) -> None:
        self._libc = ctypes.CDLL(None)
        self._libc.malloc.restype = ctypes.c_void_p
        blocks = [self._block() for _ in range(size // _BLOCK)]
        self._above = self._block()
        for block in blocks:
            self._libc.free(block)

    def release(self) -> None:
        """Free the block above."""
        self._libc.free(self._above)

    def _block(self) -> ctypes.c_void_p:
        block = ctypes.c_void_p(self._libc.malloc(ctypes.c_size_t(_BLOCK)))
        ctypes.memset(block, 1, _BLOCK)
        return block
