"""The rate limit of one key: a token bucket, refilled when it is read."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Tolerance for rounding, in tokens, after a client waited exactly long enough.
_ROUNDING = 1e-6


class TokenBucket:
    """Holds up to `per_minute` tokens, one for each clip, refilled at `per_minute` per minute.

    It allows `per_minute` requests at once, and as many per minute in the long run. Not
    thread-safe. Each process counts for itself.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._tokens = float(per_minute)
        self._refilled_at = clock()

    def take(self) -> float:
        """Take a token and return 0; if there is none, return the seconds until the next."""
        now = self._clock()
        refill = (now - self._refilled_at) * self.per_minute / 60
        self._tokens = min(float(self.per_minute), self._tokens + refill)
        self._refilled_at = now
        if self._tokens >= 1 - _ROUNDING:
            self._tokens = max(0.0, self._tokens - 1)
            return 0.0
        return (1 - self._tokens) * 60 / self.per_minute

    def spend(self, amount: int) -> None:
        """Take so many tokens that may not be there yet: the next request waits for them."""
        self._tokens -= amount
