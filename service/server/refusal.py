"""The ASGI app that responds to a request refused by its connection."""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from service.http.error_responses import respond
from service.server.problems import PROBLEM


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond with the problem in the scope's state, as routes do with theirs."""
    response = respond(HTTPConnection(scope), scope["state"][PROBLEM])
    await response(scope, receive, send)
