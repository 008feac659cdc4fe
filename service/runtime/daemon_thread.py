"""Blocking work in daemon threads, which do not delay the end of the process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from model.thread_name import show_thread_name

_T = TypeVar("_T")


def result_within(seconds: float, work: Callable[[], _T]) -> _T | None:
    """Run `work` in a new daemon thread; return None where it takes longer, or raises OSError."""
    results: list[_T] = []

    def run() -> None:
        show_thread_name()
        with suppress(OSError):
            results.append(work())

    thread = threading.Thread(target=run, name="scmrl-look", daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else None


async def in_thread(name: str, work: Callable[[], _T]) -> _T:
    """Run `work` in a new daemon thread; return its result or raise its exception.

    Unlike asyncio.to_thread it shares no pool, and the event loop can close before `work` ends. If
    this coroutine is cancelled, the thread runs on.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        show_thread_name()
        result, error = None, None
        try:
            result = work()
        except BaseException as exc:
            error = exc
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future
