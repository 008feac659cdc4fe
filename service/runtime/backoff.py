"""The wait before something that has failed is tried again."""

from __future__ import annotations

#: Most doublings of a wait: 2.0**1024 is an OverflowError, after 1024 failures.
_MAX_DOUBLINGS = 64


def backoff_s(failures: int, first_s: float, longest_s: float) -> float:
    """Return the wait in seconds after `failures` failures in a row, 1 or more.

    It is `first_s` after the first one, and doubles with each further one up to `longest_s`.
    """
    return min(longest_s, first_s * 2.0 ** min(failures - 1, _MAX_DOUBLINGS))
