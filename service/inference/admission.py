"""Who is let in: how many are inside, how fast they leave, and how long one more would wait."""

from __future__ import annotations

import math
import time
from collections import deque

from service.errors import Error, Problem

#: Leavings that the drain rate is measured over, and the fewest that say anything.
_WINDOW, _FEWEST = 64, 4
#: The share of the longest wait that is left while requests are being refused.
_WHILE_REFUSING = 0.25
#: Shares of the longest wait above which T is halved, and is as low as the operator allows.
_HALVED_FROM, _LOWEST_FROM = 0.5, 0.75


class Admission:
    """The places of one checkpoint. Not locked: whoever holds it does that.

    `places` is the most requests inside at a time. One that would wait longer than `max_wait_s`,
    at the rate at which places came free lately, is refused before that; `always` are let in
    whatever the rate. So a burst is answered whole; while more come than can be, a queue as long
    would make everybody wait and answer nobody more: there is a quarter of the wait then, until
    nobody has been refused for `max_wait_s`.
    """

    def __init__(self, places: int, max_wait_s: float, always: int) -> None:
        self.places = places
        self.taken = 0
        self._max_wait_s = max_wait_s
        self._always = min(always, places)
        self._rate = 0.0  # places a second; 0 until it has been measured
        self._left: deque[float] = deque(maxlen=_WINDOW)
        self._refused_at = -math.inf

    @property
    def wait_s(self) -> float:
        """How long a request that comes now would be inside; 0 where no rate is known yet."""
        return self.taken / self._rate if self._rate else 0.0

    @property
    def longest_wait_s(self) -> float:
        """The longest wait that one is let in for now."""
        refusing = time.monotonic() - self._refused_at < self._max_wait_s
        return self._max_wait_s * (_WHILE_REFUSING if refusing else 1.0)

    @property
    def pressure(self) -> float:
        """How near it is to refusing requests, from 0 (empty) to 1."""
        full = self.taken / self.places
        # Earlier than requests are refused for it: one that is alone is slow for no load.
        if self.taken <= self._always // 2:
            return full
        if not self._rate and self.taken > self._always:  # how fast it is has yet to be seen
            return max(full, _HALVED_FROM)
        return min(1.0, max(full, self.wait_s / self.longest_wait_s))

    def check(self) -> None:
        """Raise Problem FULL where one more cannot be let in; Retry-After is the drain time."""
        longest_s = self.longest_wait_s
        too_long = self.taken >= self._always and self.wait_s > longest_s
        if self.taken < self.places and not too_long:
            return
        self._refused_at = time.monotonic()
        what = (
            f"{self.taken} requests are ahead, which takes longer than {longest_s:g} s"
            if too_long
            else f"All {self.places} places are taken"
        )
        raise Problem(Error.FULL, f"{what}; please try again later.", retry_after_s=self.wait_s)

    def enter(self) -> None:
        """Take a place. Raises Problem FULL."""
        self.check()
        if not self.taken:  # the time that nobody was inside says nothing of the rate
            self._left.clear()
            self._left.append(time.monotonic())
        self.taken += 1

    def leave(self) -> None:
        self.taken -= 1
        self._left.append(time.monotonic())
        took = self._left[-1] - self._left[0]
        if len(self._left) > _FEWEST and took > 0:
            self._rate = (len(self._left) - 1) / took


def shed(steps: int, least: int, pressure: float) -> int:
    """Time steps T to run for instead of `steps` under `pressure` (0 to 1), not below `least`.

    There are three levels, so that requests still run together: all, half, the least.
    """
    if not least or pressure < _HALVED_FROM:
        return steps
    lowered = steps // 2 if pressure < _LOWEST_FROM else least
    return min(steps, max(least, lowered))
