"""The timers of one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

Name = Literal["head", "parse", "send", "drop", "linger", "client"]


class Timers:
    """Timers by name, at most one of each."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handles: dict[Name, asyncio.TimerHandle] = {}

    def start(self, name: Name, seconds: float, call: Callable[[], None]) -> None:
        """Call `call` after `seconds`; replaces a running timer of the same name."""
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
