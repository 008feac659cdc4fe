"""The rate limits of keys: token buckets, of this process or shared by several."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from service.keys.limit_store import LimitStore, StoreUnavailable

#: Tolerance for rounding, in tokens, after a client waited exactly long enough.
_ROUNDING = 1e-6


class TokenBucket:
    """Holds up to `per_minute` tokens, one for each clip, refilled at `per_minute` per minute.

    It allows `per_minute` requests at once, and as many per minute in the long run. Not
    thread-safe.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._tokens = float(per_minute)
        self._refilled_at = clock()

    def take(self) -> float:
        """Take a token and return 0; if there is none, return the seconds until the next."""
        self._refill()
        if self._tokens >= 1 - _ROUNDING:
            self._tokens = max(0.0, self._tokens - 1)
            return 0.0
        return (1 - self._tokens) * 60 / self.per_minute

    def spend(self, amount: int) -> None:
        """Take tokens, and overdraw the bucket if there are too few: the next request waits."""
        self._refill()
        self._tokens -= amount

    def _refill(self) -> None:
        now = self._clock()
        refill = (now - self._refilled_at) * self.per_minute / 60
        self._tokens = min(float(self.per_minute), self._tokens + refill)
        self._refilled_at = now


class RateLimits(Protocol):
    """Counts the clips of each key, by its name, up to `per_minute`."""

    async def take(self, name: str, per_minute: int) -> float:
        """See TokenBucket.take."""
        ...

    async def spend(self, name: str, per_minute: int, amount: int) -> None:
        """See TokenBucket.spend."""
        ...


class LocalRateLimits:
    """Counts in this process alone. Used by the event loop alone."""

    def __init__(self) -> None:
        # By the key's name, so that they survive a reload of keys.
        self._buckets: dict[str, TokenBucket] = {}

    async def take(self, name: str, per_minute: int) -> float:
        return self._bucket(name, per_minute).take()

    async def spend(self, name: str, per_minute: int, amount: int) -> None:
        self._bucket(name, per_minute).spend(amount)

    def _bucket(self, name: str, per_minute: int) -> TokenBucket:
        bucket = self._buckets.setdefault(name, TokenBucket(per_minute))
        bucket.per_minute = per_minute
        return bucket


class SharedRateLimits:
    """Counts in a store that processes share. Used by the event loop alone.

    While the store does not answer, each process applies the limit alone, by its own count.
    """

    def __init__(self, store: LimitStore) -> None:
        self._store = store
        self._local = LocalRateLimits()

    async def take(self, name: str, per_minute: int) -> float:
        try:
            wait_s = await self._store.take(name, per_minute, 1, may_refuse=True)
        except StoreUnavailable:
            return await self._local.take(name, per_minute)
        if not wait_s:
            await self._local.spend(name, per_minute, 1)
        return wait_s

    async def spend(self, name: str, per_minute: int, amount: int) -> None:
        await self._local.spend(name, per_minute, amount)
        with suppress(StoreUnavailable):
            await self._store.take(name, per_minute, amount, may_refuse=False)
