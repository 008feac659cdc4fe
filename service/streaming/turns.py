"""Turns of the sessions: how many windows are classified at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """`count` turns, which sessions take in the order in which they ask. Used by one event loop.

    `waiting`: sessions that wait for theirs.
    """

    def __init__(self, count: int) -> None:
        self.waiting = 0
        self._free = asyncio.Semaphore(count)

    @property
    def are_taken(self) -> bool:
        """Whether a session that asks now has to wait."""
        return self._free.locked()

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Hold a turn until the block ends."""
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._free.release()
