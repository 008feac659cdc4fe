"""How often one key may ask: a bucket of tokens that fills while nobody looks."""

from __future__ import annotations

import time
from collections.abc import Callable

#: Part of a token that rounding may have taken from one that was waited for in full.
_ROUNDING = 1e-6


class Bucket:
    """Holds `per_minute` tokens, one a request; a spent one is back after 60 / per_minute s.

    So that many requests may come at once, and that many a minute in the long run. It belongs
    to one thread, and to one process: two services beside each other count each for itself.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._tokens = float(per_minute)
        self._seen = clock()

    def take(self) -> float:
        """Take a token and return 0, or leave it and return the seconds until there is one."""
        now = self._clock()
        gained = (now - self._seen) * self.per_minute / 60
        self._tokens = min(float(self.per_minute), self._tokens + gained)
        self._seen = now
        if self._tokens >= 1 - _ROUNDING:
            self._tokens = max(0.0, self._tokens - 1)
            return 0.0
        return (1 - self._tokens) * 60 / self.per_minute
