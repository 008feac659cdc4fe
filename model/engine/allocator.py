"""How the C library hands out memory: the engine's and the training's speed depend on it."""

from __future__ import annotations

import ctypes
import sys

#: glibc's names in <malloc.h>.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
#: Bytes taken from the kernel at a time.
_TOP_PAD = 64 * 1024 * 1024
_NEVER = 2**31 - 1


def keep_memory() -> bool:
    """Tell glibc's malloc to keep what was freed, and say whether it took the advice.

    By default it maps each large block anew and gives it back after use; the page faults of
    that cost more than the arithmetic on it. With this, the process stays as large as it has
    ever been. Elsewhere than on glibc nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    advice = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _NEVER), (_M_TOP_PAD, _TOP_PAD))
    return all(mallopt(parameter, value) == 1 for parameter, value in advice)
