"""The answer to a request that the server itself refuses."""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.types import Receive, Scope, Send

from service.http.error_responses import respond
from service.server.connection import PROBLEM


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the problem in the scope's state, as routes answer with theirs."""
    response = respond(HTTPConnection(scope), scope["state"][PROBLEM])
    await response(scope, receive, send)
