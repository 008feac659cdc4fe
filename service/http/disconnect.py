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
    task = asyncio.current_task()
    assert task is not None
    has_gone = False

    def stop(disconnect: asyncio.Task[None]) -> None:
        nonlocal has_gone
        has_gone = True
        if not disconnect.cancelled():
            disconnect.exception()  # retrieved, so that asyncio does not warn
        task.cancel()

    disconnect = asyncio.ensure_future(_wait_for_disconnect(request))
    disconnect.add_done_callback(stop)
    try:
        async with asyncio.timeout(deadline_s) as deadline:
            return await work
    except TimeoutError:
        if deadline_s is None or not deadline.expired():
            raise
        raise deadline_passed(deadline_s) from None
    except asyncio.CancelledError:
        if has_gone and not task.uncancel():
            raise ClientDisconnect from None
        raise
    finally:
        disconnect.remove_done_callback(stop)
        disconnect.cancel()


async def _wait_for_disconnect(request: Request) -> None:
    """Return when the client has disconnected."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
