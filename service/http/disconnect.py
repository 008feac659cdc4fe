"""Cancellation of work at its deadline or when its client disconnects."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from service.classification.concurrent_clips import deadline_passed

_T = TypeVar("_T")


async def run_until_disconnect(
    request: Request, work: Coroutine[Any, Any, _T], deadline_s: float | None
) -> _T:
    """Return the result of `work`; cancel it after `deadline_s` seconds (None: never) or on
    disconnect.

    Call this after the request's body has been read. It returns once `work` has ended, even if
    cancelled, so that its resources are free. Raises Problem DEADLINE or ClientDisconnect.
    """
    task = asyncio.ensure_future(work)
    disconnect = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait(
            {task, disconnect}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED
        )
        if task.done():
            return task.result()
        if disconnect.done():
            raise ClientDisconnect
        assert deadline_s is not None
        raise deadline_passed(deadline_s)
    finally:
        task.cancel()
        disconnect.cancel()
        await asyncio.gather(task, disconnect, return_exceptions=True)


async def _wait_for_disconnect(request: Request) -> None:
    """Return when the client has disconnected."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
