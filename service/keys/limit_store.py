"""Limits of keys that several processes share, in Redis or Valkey: one call of a script for each
decision, with the clock of the server."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from service.errors import StartupError

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger("scmrl.keys")

#: Seconds without a call to the store after one that failed, so that not every request waits.
_PAUSE_S = 1.0
#: Connections of one process, each with one call at a time.
_MAX_CONNECTIONS = 16
#: Seconds after which a slot is free again where its holder has died.
LEASE_S = 30.0

# A bucket is one number: when it will be full again, in microseconds. No number: it is full. The
# answer is the wait in microseconds, 0 where the tokens were taken.
_TAKE = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), now)
full_at = full_at + 60000000 / ARGV[1] * ARGV[2]
local wait = full_at - now - 60000000
if wait > 1 and ARGV[3] == '1' then
    return math.ceil(wait)
end
local until_full_ms = math.ceil((full_at - now) / 1000) + 1
redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', until_full_ms)
return 0
"""

# Slots are a sorted set: holders, by the time at which their lease ends, in milliseconds. A holder
# that has a slot keeps it, however many there are.
_HOLD = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local has_one = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not has_one and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then
    return 0
end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
"""


class StoreUnavailable(Exception):
    """The store does not answer, or refuses: each process decides alone."""


class LimitStore:
    """The token buckets and slots of keys in a shared store. Used by the event loop alone.

    A call that has no answer within `timeout_s` raises StoreUnavailable, as do all others within
    the second after it. `unanswered` counts both.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self.unanswered = 0
        self._url = url
        self._timeout_s = timeout_s
        self._redis: Redis | None = None
        self._retry_at: float | None = None  # None: the last call succeeded

    async def open(self) -> None:
        """Make the client, and call the store once, so that the log has any error at the start.

        Raises StartupError where the package is missing or the address is not valid.
        """
        try:
            from redis.asyncio import BlockingConnectionPool, Redis
            from redis.asyncio.retry import Retry
            from redis.backoff import NoBackoff
        except ImportError as exc:
            detail = f"SCMRL_LIMIT_STORE needs the extra redis (pip install 'scmrl[redis]'): {exc}"
            raise StartupError(detail, misused=True) from exc
        try:
            pool = BlockingConnectionPool.from_url(
                self._url,
                max_connections=_MAX_CONNECTIONS,
                timeout=self._timeout_s,
                socket_timeout=self._timeout_s,
                socket_connect_timeout=self._timeout_s,
                retry=Retry(NoBackoff(), 1),  # the server may have closed an idle connection
            )
        except ValueError as exc:
            raise StartupError(f"SCMRL_LIMIT_STORE: {exc}", misused=True) from exc
        self._redis = Redis.from_pool(pool)
        self._take = self._redis.register_script(_TAKE)
        self._hold = self._redis.register_script(_HOLD)
        try:
            await self._call(self._redis.ping)
        except StoreUnavailable:
            pass  # it is in the log
        else:
            log.info("limits of keys are shared")

    async def close(self) -> None:
        """Close the connections."""
        if self._redis is not None:
            await self._redis.aclose()

    async def take(self, name: str, per_minute: int, tokens: int, may_refuse: bool) -> float:
        """Take tokens of a key's bucket of `per_minute`; return 0, or the seconds until there are
        enough, where none is taken.

        Without `may_refuse` they are always taken: the next requests wait for them. Raises
        StoreUnavailable.
        """
        arguments = (per_minute, tokens, int(may_refuse))
        wait = await self._call(lambda: self._take((f"scmrl:rate:{name}",), arguments))
        return float(int(wait) / 1e6)

    async def hold(self, name: str, holder: str, most: int) -> bool:
        """Give a key's holder one of `most` slots for LEASE_S seconds, or renew its lease.

        Return whether it has one. Raises StoreUnavailable.
        """
        arguments = (holder, most, int(1000 * LEASE_S))
        return bool(await self._call(lambda: self._hold((_slots_key(name),), arguments)))

    async def release(self, name: str, holder: str) -> None:
        """Free a holder's slot. Raises StoreUnavailable."""
        redis = self._redis
        assert redis is not None
        await self._call(lambda: redis.zrem(_slots_key(name), holder))

    async def _call(self, command: Callable[[], Awaitable[Any]]) -> Any:
        """Return the result of a command to the store. Raises StoreUnavailable."""
        from redis.exceptions import RedisError

        now = time.monotonic()
        if self._retry_at is not None:
            if now < self._retry_at:
                self.unanswered += 1
                raise StoreUnavailable
            self._retry_at = now + _PAUSE_S  # one call tries, the others do not wait for it
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await command()
        except (RedisError, OSError) as exc:  # TimeoutError is an OSError
            self.unanswered += 1
            self._retry_at = time.monotonic() + _PAUSE_S
            reason = str(exc) or f"no answer within {self._timeout_s:g} s"
            log.warning(
                "the store of SCMRL_LIMIT_STORE cannot be used, so this process applies the limits "
                "of keys alone: %s", reason,
            )  # fmt: skip
            raise StoreUnavailable from exc
        if self._retry_at is not None:
            self._retry_at = None
            log.info("the store of SCMRL_LIMIT_STORE answers again")
        return answer


def _slots_key(name: str) -> str:
    return f"scmrl:streams:{name}"
