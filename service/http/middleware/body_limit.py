"""Limits on request bodies, enforced while they stream in."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Error, Problem
from service.runtime.upload_budget import UploadBudget

#: Seconds from a body's start in which no minimum rate applies.
_GRACE_S = 10.0


class BodyLimit:
    """Raise a Problem for a body beyond a limit, while it is read.

    - `max_bytes`: of one body.
    - `budget`: of the bodies of all requests that are not answered yet.
    - `max_seconds`: from a body's start to its end.
    - `min_rate`: in bytes per second, after the first seconds.

    `request.state.reserve` counts bytes that a body takes beyond its own towards the budget until
    the request is answered: those of a compressed one.

    Starlette's RequestBodyLimitMiddleware replaces the app's response with a plain-text 413; here
    the error is a problem document with the limit and the size.
    """

    def __init__(
        self,
        app: ASGIApp,
        max_bytes: int,
        budget: UploadBudget,
        max_seconds: float,
        min_rate: float,
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.budget = budget
        self.max_seconds = max_seconds
        self.min_rate = min_rate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        announced = Headers(scope=scope).get("content-length", "")
        received = reserved = 0
        ended = False
        started = asyncio.get_running_loop().time()

        async def receive_within_limits() -> Message:
            nonlocal received, ended
            if ended:  # only http.disconnect can follow
                return await receive()
            if announced.isdecimal() and int(announced) > self.max_bytes:
                raise self._too_large(f"is {announced} bytes")
            message = await self._in_time(receive, started, received)
            size = len(message.get("body", b""))
            ended = not message.get("more_body", False)
            if received + size > self.max_bytes:
                raise self._too_large("is larger")
            received += size
            self.budget.add(size)
            return message

        def reserve(size: int) -> None:
            nonlocal reserved
            reserved += size
            self.budget.add(size)

        scope["state"]["reserve"] = reserve
        try:
            await self.app(scope, receive_within_limits, send)
        finally:
            self.budget.remove(received + reserved)

    async def _in_time(self, receive: Receive, started: float, received: int) -> Message:
        """Receive the next message. Raises Problem UPLOAD_TIMEOUT."""
        needed = _GRACE_S + received / self.min_rate
        try:
            async with asyncio.timeout_at(started + min(self.max_seconds, needed)):
                return await receive()
        except TimeoutError:
            limit = f"within {self.max_seconds:g} s (SCMRL_UPLOAD_TIMEOUT_S)"
            if needed < self.max_seconds:
                limit = (
                    f"at {self.min_rate:g} bytes/s (SCMRL_UPLOAD_MIN_RATE): {received} bytes in "
                    f"{needed:.1f} s"
                )
            detail = f"The request body has not arrived {limit}."
            raise Problem(Error.UPLOAD_TIMEOUT, detail) from None

    def _too_large(self, excess: str) -> Problem:
        detail = (
            f"The request body {excess}; at most {self.max_bytes} bytes are accepted "
            "(SCMRL_MAX_BODY_BYTES)."
        )
        return Problem(Error.TOO_LARGE, detail)
