"""A token bucket: limits how much work a connection, or a stream, causes."""

from __future__ import annotations

import time
from collections.abc import Callable


class TokenBucket:
    """Allows `burst` tokens at once and `per_second` tokens per second in the long run.

    Tokens are spent after the work is done, so the bucket may be overdrawn; `wait_s` then is the
    time to wait before more work.
    """

    def __init__(
        self, burst: int, per_second: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._per_second = per_second
        self._clock = clock
        self._left = float(burst)
        self._refilled_at = clock()

    def spend(self, amount: int = 1) -> None:
        self._left -= amount

    def wait_s(self) -> float:
        """Return the seconds until the bucket is no longer overdrawn; 0 where it is not."""
        now = self._clock()
        refill = (now - self._refilled_at) * self._per_second
        self._left = min(float(self._burst), self._left + refill)
        self._refilled_at = now
        return max(0.0, -self._left / self._per_second)
