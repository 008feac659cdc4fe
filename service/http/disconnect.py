"""How long an answer is worth working for: until its deadline, while its client is there."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from service.errors import Error, Problem

_T = TypeVar("_T")


async def while_wanted(request: Request, work: Coroutine[Any, Any, _T], deadline_s: float) -> _T:
    """The result of `work`, which is cancelled at the deadline or when the client goes away.

    To be called when the request's body has been read. Returns when `work` has ended, also where
    it is cancelled: what it holds is free then. Raises Problem DEADLINE or ClientDisconnect.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait(
            {working, watching}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED
        )
        if working.done():
            return working.result()
        if watching.done():
            raise ClientDisconnect
        raise Problem(Error.DEADLINE, f"There was no answer within {deadline_s:g} s.")
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _gone(request: Request) -> None:
    """Return when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
