"""Names of threads, as the operating system shows them."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

#: Longest name that Linux keeps.
_MAX_BYTES = 15


def show_thread_name() -> None:
    """Give the calling thread's name to the operating system, for `top -H` and `scmrl bench`.

    Python does so from 3.14 on. Threads that this one starts in C, as OpenMP does, inherit it.
    """
    name = threading.current_thread().name.encode()[:_MAX_BYTES]
    with suppress(OSError):  # not Linux
        Path("/proc/thread-self/comm").write_bytes(name)
