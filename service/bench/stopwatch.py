"""How long something takes: medians of rounds, of which the first fills caches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence


def seconds(work: Callable[[], object]) -> float:
    """Of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median_ms(taken: Sequence[float]) -> float:
    """Milliseconds, of seconds of which the first does not count."""
    return 1000 * statistics.median(taken[1:])
