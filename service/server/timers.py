"""The timers of one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

Name = Literal["head", "parse", "send", "drop", "linger", "look"]


class Timers:
    """At most one timer of each name."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handles: dict[Name, asyncio.TimerHandle] = {}

    def start(self, name: Name, seconds: float, call: Callable[[], None]) -> None:
        """Call it after `seconds`, in place of what a timer of this name would have called."""
        self.cancel(name)
        self._handles[name] = self._loop.call_later(seconds, self._fire, name, call)

    def is_running(self, name: Name) -> bool:
        return name in self._handles

    def cancel(self, name: Name) -> None:
        handle = self._handles.pop(name, None)
        if handle is not None:
            handle.cancel()

    def cancel_all(self) -> None:
        for handle in self._handles.values():
            handle.cancel()
        self._handles.clear()

    def _fire(self, name: Name, call: Callable[[], None]) -> None:
        del self._handles[name]
        call()
