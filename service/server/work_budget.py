"""How much of something a connection may cause: a bucket of tokens."""

from __future__ import annotations

import time
from collections.abc import Callable


class Budget:
    """Lets `burst` through at once and `per_second` in the long run.

    What happens is counted afterwards, so the budget may be overdrawn; `wait_s` says for how long
    nothing more should be read or parsed.
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
        """Seconds until the budget is no longer overdrawn; 0 where it is not."""
        now = self._clock()
        gained = (now - self._refilled_at) * self._per_second
        self._left = min(float(self._burst), self._left + gained)
        self._refilled_at = now
        return max(0.0, -self._left / self._per_second)
