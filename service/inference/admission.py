"""Admission control: how many requests are in flight, and how long another one would wait."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from service.errors import Error, Problem

#: Completions over which the rate is measured, at most and at least.
_WINDOW, _MIN_WINDOW = 64, 4
#: Factor on the limit of the estimated wait while requests are being rejected.
_REJECTING_FACTOR = 0.5
#: Load from which T is halved, and from which T is `min_steps_under_load`.
_HALVE_FROM, _LOWEST_FROM = 0.5, 0.75


class Load(Protocol):
    """What admission depends on. Other processes may read it.

    `in_flight`: admitted requests. `completion_rate`: completed requests a second, 0 until it has
    been measured. `rejected_at`: time.monotonic() of the last rejection.
    """

    in_flight: int
    completion_rate: float
    rejected_at: float


@dataclass
class LocalLoad:
    """The load of a checkpoint that this process alone serves."""

    in_flight: int = 0
    completion_rate: float = 0.0
    rejected_at: float = -math.inf


LoadFactory = Callable[[], Load]


class Admission:
    """The slots of one checkpoint: an admitted request holds one until it is answered.

    Args:
        slots: Maximum requests in flight.
        max_wait_s: Reject a request whose estimated wait is longer, in seconds. It drops to half
            while requests are being rejected, until none has been for `max_wait_s`: so a burst is
            served completely, but under sustained overload, where a long queue adds latency and
            no throughput, the queue is short.
        always_admit: Requests in flight that are admitted whatever their estimated wait.
        load: Where the numbers are kept.
    """

    def __init__(
        self, slots: int, max_wait_s: float, always_admit: int, load: Load | None = None
    ) -> None:
        self.slots = slots
        self.max_wait_s = max_wait_s
        self.always_admit = min(always_admit, slots)
        self.load: Load = LocalLoad() if load is None else load
        self._lock = threading.Lock()
        self._completed_at: deque[float] = deque(maxlen=_WINDOW)

    def set_always_admit(self, always_admit: int) -> None:
        """Change `always_admit`; it is at most `slots`."""
        self.always_admit = min(always_admit, self.slots)

    @property
    def in_flight(self) -> int:
        """Admitted requests that have not been answered."""
        return self.load.in_flight

    @property
    def estimated_wait_s(self) -> float:
        """Estimated seconds until a request admitted now is answered; 0 before a rate is known."""
        rate = self.load.completion_rate
        return self.load.in_flight / rate if rate else 0.0

    @property
    def wait_limit_s(self) -> float:
        """The longest estimated wait that is admitted now, in seconds."""
        is_rejecting = time.monotonic() - self.load.rejected_at < self.max_wait_s
        return self.max_wait_s * (_REJECTING_FACTOR if is_rejecting else 1.0)

    @property
    def pressure(self) -> float:
        """The load, from 0 (nothing in flight) to 1 (requests are rejected)."""
        full = self.in_flight / self.slots
        # Few requests on a slow machine are no load, whatever their estimated wait.
        if self.in_flight <= self.always_admit // 2:
            return full
        if not self.load.completion_rate and self.in_flight > self.always_admit:
            return max(full, _HALVE_FROM)  # no rate is known yet
        return min(1.0, max(full, self.estimated_wait_s / self.wait_limit_s))

    def check(self) -> None:
        """Raise Problem FULL if a request would be rejected now; Retry-After is the wait."""
        limit_s = self.wait_limit_s
        too_long = self.in_flight >= self.always_admit and self.estimated_wait_s > limit_s
        if self.in_flight < self.slots and not too_long:
            return
        self.load.rejected_at = time.monotonic()
        reason = (
            f"{self.in_flight} requests are in flight; the estimated wait exceeds {limit_s:g} s"
            if too_long
            else f"All {self.slots} slots are in use"
        )
        detail = f"{reason}. Retry after the time in Retry-After."
        raise Problem(Error.FULL, detail, retry_after_s=self.estimated_wait_s)

    def acquire(self) -> None:
        """Take a slot. Raises Problem FULL."""
        with self._lock:
            self.check()
            if not self.in_flight:  # idle time must not lower the completion rate
                self._completed_at.clear()
                self._completed_at.append(time.monotonic())
            self.load.in_flight += 1

    def release(self) -> None:
        """Free a slot, and measure the completion rate."""
        with self._lock:
            self.load.in_flight -= 1
            self._completed_at.append(time.monotonic())
            elapsed_s = self._completed_at[-1] - self._completed_at[0]
            if len(self._completed_at) > _MIN_WINDOW and elapsed_s > 0:
                self.load.completion_rate = (len(self._completed_at) - 1) / elapsed_s


def reduce_steps(steps: int, min_steps: int, pressure: float) -> int:
    """Return the time steps T to run instead of `steps` under `pressure` (0 to 1).

    Never below `min_steps`; `min_steps` 0 turns it off. There are only three levels (all, half,
    `min_steps`), so that requests can still be batched.
    """
    if not min_steps or pressure < _HALVE_FROM:
        return steps
    reduced = steps // 2 if pressure < _LOWEST_FROM else min_steps
    return min(steps, max(min_steps, reduced))
