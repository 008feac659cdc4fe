"""Timing of calls: medians of rounds, without the first one, which fills caches."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence


def time_call(work: Callable[[], object]) -> float:
    """Return the seconds that one call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median_ms(seconds: Sequence[float]) -> float:
    """Return the median of `seconds` without the first, in milliseconds."""
    return 1000 * statistics.median(seconds[1:])
