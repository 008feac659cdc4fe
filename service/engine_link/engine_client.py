"""The engine process from the side of an HTTP worker."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from service.engine_link.channel import Channel, ChannelLost, Handler, Reply
from service.errors import Error, Problem
from service.keys.key_file import Keys
from service.streaming.messages import StreamError

_LOST = "The engine process has ended."


class EngineClient:
    """Calls the engine process. `handlers`: of what it calls here; `on_lost`: called at its end."""

    def __init__(self, handlers: Mapping[str, Handler], on_lost: Callable[[], None]) -> None:
        self._channel = Channel(handlers, on_lost)

    async def connect(self, sock: socket.socket) -> None:
        """Use a connected socket from now on."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self._channel, sock=sock)

    @property
    def is_lost(self) -> bool:
        """Whether the connection has ended."""
        return self._channel.is_lost

    async def call(self, method: str, **arguments: Any) -> Reply:
        """Call a method and wait for its reply. Raises Problem as the method does, and NOT_READY
        where the engine process has ended."""
        try:
            return await self._channel.call(method, **arguments)
        except ChannelLost:
            raise Problem(Error.NOT_READY, _LOST, retry_after_s=5) from None

    def close(self) -> None:
        """Close the connection, once what was sent has been received."""
        self._channel.close()

    def note(self, method: str, **arguments: Any) -> None:
        """Call a method without waiting."""
        self._channel.note(method, **arguments)


class RemoteRateLimits:
    """Rate limits that the engine process counts for all workers: see RateLimits."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client

    async def take(self, name: str, per_minute: int) -> float:
        reply = await self._client.call("take", name=name, per_minute=per_minute)
        return float(reply.value)

    async def spend(self, name: str, per_minute: int, amount: int) -> None:
        self._client.note("spend", name=name, per_minute=per_minute, amount=amount)


class RemoteStreamLimits:
    """Bounds of live streams that the engine process counts for all workers: see StreamLimits."""

    def __init__(self, client: EngineClient) -> None:
        self._client = client
        self._numbers = count(1)

    @asynccontextmanager
    async def session(self, key: str) -> AsyncIterator[None]:
        async with self._hold("session", key):
            yield

    @asynccontextmanager
    async def decoder(self) -> AsyncIterator[None]:
        async with self._hold("decoder", ""):
            yield

    @asynccontextmanager
    async def _hold(self, kind: str, key: str) -> AsyncIterator[None]:
        number = next(self._numbers)
        try:
            reply = await self._client.call("hold_stream", number=number, kind=kind, key=key)
            if reply.value is not None:
                code, reason = reply.value
                raise StreamError(code, reason)
            yield
        finally:  # also where this was cancelled while the engine process decided
            self._client.note("free_stream", number=number)


class RemoteKeys:
    """The keys that the engine process has read: see CurrentKeys."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
