"""Admission of WebSockets: every check except that of the key."""

from __future__ import annotations

from collections.abc import Callable, Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Error, Problem
from service.http.error_responses import send_problem


class WebSocketAdmission:
    """Refuse a WebSocket while `is_draining()`, and one of a page of another origin.

    Requests are refused by their routes, where those need a checkpoint. WebSockets that are open
    when the service shuts down are closed by the server, with code 1012, once the requests in
    flight are answered.

    A browser applies no CORS to WebSockets: any page could open one at a service on its user's
    machine. So `origins` ("*": any) are those that CORS lets read responses.
    """

    def __init__(
        self, app: ASGIApp, is_draining: Callable[[], bool], origins: Collection[str]
    ) -> None:
        self.app = app
        self._is_draining = is_draining
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            try:
                self._admit(Headers(scope=scope))
            except Problem as problem:
                await send_problem(problem, scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _admit(self, headers: Headers) -> None:
        """Raises Problem STOPPING or ORIGIN_REFUSED."""
        if self._is_draining():
            detail = "The service is shutting down. Open the WebSocket at another instance."
            raise Problem(Error.STOPPING, detail, retry_after_s=5)
        origin = headers.get("origin")
        if origin is None or "*" in self._origins or origin.lower() in self._origins:
            return
        if origin.partition("://")[2].lower() != headers.get("host", "").lower():
            detail = (
                f"A page of {origin[:100]!r} may not open a WebSocket here; the own pages "
                "of the service and those of SCMRL_CORS_ORIGINS may."
            )
            raise Problem(Error.ORIGIN_REFUSED, detail)
