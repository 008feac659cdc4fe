"""The choice of the largest batch of a device, from its measured times."""

from __future__ import annotations

from collections.abc import Mapping

#: Maximum requests in a batch where none is set or measured. A CPU computes samples one by one, so
#: that more would only delay the first ones.
DEFAULT_MAX_BATCH = 8
#: Sizes that are measured on a GPU: of those and larger ones a recorded graph computes 32 at most,
#: and an H200 gains no more than a quarter from 64 to 256.
SIZES = (1, 2, 4, 8, 16, 32, 64)
#: Share of the best rate that the chosen size reaches: the last tenth would cost every request of
#: a full batch a longer wait.
_ENOUGH = 0.9
#: A request waits for the batch that runs and for its own, under overload for half of the longest
#: admitted wait (service/inference/admission.py): so a batch takes a quarter at most.
_SHARE_OF_WAIT = 0.25


def longest_batch_s(max_wait_s: float) -> float:
    """Return the longest time of a batch, in seconds, where requests may wait `max_wait_s`."""
    return _SHARE_OF_WAIT * max_wait_s


def choose_max_batch(times: Mapping[int, float], longest_s: float, slots: int) -> int | None:
    """Return the smallest size at which samples per second are nearly the most; None if unknown.

    Args:
        times: Seconds of a batch, by its size.
        longest_s: Longest time of a batch, in seconds. Where all take longer, the smallest is
            returned.
        slots: Maximum requests in flight. One batch runs while the next one fills, so the size is
            at most half of them, and at least the smallest measured one.
    """
    if not times:
        return None
    smallest = min(times)
    usable = {
        size: size / seconds
        for size, seconds in times.items()
        if size == smallest or (seconds <= longest_s and 2 * size <= slots)
    }
    best = max(usable.values())
    return min(size for size, rate in usable.items() if rate >= _ENOUGH * best)
