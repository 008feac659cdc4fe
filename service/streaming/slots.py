"""Open sessions, of the service and of each key, and counts of their windows and packets."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Protocol

from model.media.live.types import Outcome
from service.keys.limit_store import LEASE_S, LimitStore, StoreUnavailable
from service.settings import Settings
from service.streaming.messages import TOO_MANY, StreamError
from service.streaming.turns import Turns

#: Outcomes of a window.
OUTCOMES = ("answered", "skipped", "failed")
#: Outcomes of a packet of H.264 or Opus: those of `Outcome`, lost before it came, and dropped
#: since the decoder was behind.
PACKET_OUTCOMES = (*(outcome.name.lower() for outcome in Outcome), "lost", "behind")
#: Windows in flight for each decoding process, unless they are set: one is decoded, one run.
_WINDOWS_A_DECODER = 2


def windows_in_flight(settings: Settings, decode_workers: int) -> int:
    """Return how many windows of a service with so many decoding processes are in flight."""
    return settings.stream_windows_in_flight or _WINDOWS_A_DECODER * decode_workers


class StreamLimits(Protocol):
    """Bounds the open sessions, and those that have a decoder of their own."""

    def session(self, key: str) -> AbstractAsyncContextManager[None]:
        """Hold a slot for a session of a key ("": without one). Raises StreamError."""
        ...

    def decoder(self) -> AbstractAsyncContextManager[None]:
        """Hold a slot for the decoder of a session. Raises StreamError."""
        ...


class SessionSlots:
    """The open sessions of this process, which `limits` bounds. Used by the event loop alone.

    `windows`: windows of all sessions so far, `answered`, `skipped` or `failed`. `packets`: packets
    of all sessions so far, by outcome. `decoders`: sessions that have a decoder of their own;
    `decoders_lost`: those that were lost. `turns`: held by a session while a window is classified,
    `windows_in_flight` at most: however many sessions there are, an upload waits for so many.
    """

    def __init__(self, limits: StreamLimits, windows_in_flight: int) -> None:
        self.turns = Turns(windows_in_flight)
        self.windows: Counter[str] = Counter()
        self.packets: Counter[str] = Counter()
        self.decoders = self.decoders_lost = 0
        self._limits = limits
        self._open = 0

    def __len__(self) -> int:
        return self._open

    @asynccontextmanager
    async def session(self, key: str) -> AsyncIterator[None]:
        """Hold a slot for a session of a key ("": without one). Raises StreamError."""
        async with self._limits.session(key):
            self._open += 1
            try:
                yield
            finally:
                self._open -= 1

    @asynccontextmanager
    async def decoder(self) -> AsyncIterator[None]:
        """Hold a slot for the decoder of a session. Raises StreamError."""
        async with self._limits.decoder():
            self.decoders += 1
            try:
                yield
            finally:
                self.decoders -= 1


class LocalStreamLimits:
    """Bounds the sessions that are opened through this process. Used by the event loop alone.

    With a `store` the processes that use it share the bound of a key; while it does not answer,
    each applies the bound alone.
    """

    def __init__(self, settings: Settings, store: LimitStore | None = None) -> None:
        self._most = settings.stream_sessions
        self._most_of_a_key = settings.stream_sessions_per_key
        self._most_decoders = settings.stream_decoders
        self._store = store
        self._by_key: Counter[str] = Counter()
        self._decoders = 0

    @asynccontextmanager
    async def session(self, key: str) -> AsyncIterator[None]:
        """See StreamLimits.session."""
        if self._by_key.total() >= self._most:
            raise StreamError(
                TOO_MANY, f"{self._most} streams are open (SCMRL_STREAM_SESSIONS); retry later"
            )
        if key and self._by_key[key] >= self._most_of_a_key:
            raise self._too_many()
        self._by_key[key] += 1
        try:
            async with self._shared_slot(key):
                yield
        finally:
            self._by_key[key] -= 1
            self._by_key += Counter()  # drops keys without a session

    @asynccontextmanager
    async def decoder(self) -> AsyncIterator[None]:
        """See StreamLimits.decoder."""
        if self._decoders >= self._most_decoders:
            raise StreamError(
                TOO_MANY,
                f"{self._decoders} streams of H.264 or Opus are open (SCMRL_STREAM_DECODERS); "
                "retry later, or send JPEG and PCM",
            )
        self._decoders += 1
        try:
            yield
        finally:
            self._decoders -= 1

    @asynccontextmanager
    async def _shared_slot(self, key: str) -> AsyncIterator[None]:
        """Hold one of a key's slots in the store. Raises StreamError."""
        if self._store is None or not key:
            yield
            return
        holder = uuid.uuid4().hex
        with suppress(StoreUnavailable):
            if not await self._store.hold(key, holder, self._most_of_a_key):
                raise self._too_many()
        renewal = asyncio.create_task(self._renew(self._store, key, holder))
        try:
            yield
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)
            with suppress(StoreUnavailable):  # its lease ends by itself
                await self._store.release(key, holder)

    async def _renew(self, store: LimitStore, key: str, holder: str) -> None:
        """Renew a lease until cancelled. A session whose lease was lost goes on."""
        while True:
            await asyncio.sleep(LEASE_S / 3)
            with suppress(StoreUnavailable):
                await store.hold(key, holder, self._most_of_a_key)

    def _too_many(self) -> StreamError:
        return StreamError(TOO_MANY, f"the key has {self._most_of_a_key} streams open already")
