"""Settings of the C library's allocator, on which the speed of engine and training depends."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable

#: glibc's names in <malloc.h>.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
#: Bytes taken from the kernel at a time.
_TOP_PAD = 64 * 1024 * 1024
_NEVER = 2**31 - 1


def keep_memory() -> bool:
    """Make glibc's malloc keep freed memory, and return whether it does.

    By default it maps each large block when it is needed and unmaps it after use; the page faults
    cost more than the arithmetic on it. With this, the process keeps its peak memory. Without glibc
    nothing is changed.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        return False
    options = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _TOP_PAD))
    return all(mallopt(parameter, value) == 1 for parameter, value in options)


def trim() -> bool:
    """Return freed memory to the kernel. Return whether any was returned.

    glibc keeps a freed page while a block above it is in use, in arenas of several threads each.
    Each load of a checkpoint runs in a new thread, so that without this the process grows with
    each load. Takes 4 to 14 ms; other threads run on, but wait where they allocate from the arena
    that is being trimmed. Does nothing where the C library is not glibc.
    """
    malloc_trim = _of_glibc("malloc_trim")
    return malloc_trim is not None and malloc_trim(ctypes.c_size_t(0)) == 1


def _of_glibc(function: str) -> Callable[..., int] | None:
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), function, None)
