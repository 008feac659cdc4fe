"""The largest request body, enforced while it streams in."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Error, Problem


class BodyLimit:
    """Stops reading a body at `max_bytes`.

    Starlette has RequestBodyLimitMiddleware for this, but where the client announces the
    length it replaces whatever the app answers with a plain-text 413 of its own; here the
    error is a problem document like any other, and says the limit and what came.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        announced = Headers(scope=scope).get("content-length", "")
        received = 0

        async def receive_within_limit() -> Message:
            nonlocal received
            if announced.isdecimal() and int(announced) > self.max_bytes:
                raise self._problem(f"is {announced} bytes")
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                raise self._problem(f"has more than {self.max_bytes} bytes")
            return message

        await self.app(scope, receive_within_limit, send)

    def _problem(self, what: str) -> Problem:
        detail = f"The request body {what}; at most {self.max_bytes} are taken."
        return Problem(Error.TOO_LARGE, detail)
