"""Paths without a route: 404, for requests and WebSockets.

A redirect from a path with a slash at its end would make a client send its whole body for nothing.
"""

from __future__ import annotations

from fastapi import FastAPI
from starlette.routing import Match, Router
from starlette.types import Receive, Scope, Send

from service.errors import Error, Problem
from service.http.error_responses import not_found, send_problem
from service.http.paths import one_version

#: To a client whose address of the service ends in /v1 or /v2, to which it adds one.
_WITHOUT = "The address of the service, as clients take it, is without /v1 and /v2."
#: Before the paths of most routes; left out by hand more often than by clients.
_PREFIXES = "/v1", "/v2"
#: How a WebSocket is opened, for a client that asked without the headers of its handshake.
_HOW = "open it as ws:// or wss://; a proxy must pass the Upgrade and Connection headers on"


def install(app: FastAPI) -> None:
    """Answer paths without a route. The app must not redirect them (`redirect_slashes`)."""
    router = app.router

    async def respond(scope: Scope, receive: Receive, send: Send) -> None:
        await send_problem(_problem(scope, router), scope, receive, send)

    router.default = respond


def _problem(scope: Scope, router: Router) -> Problem:
    """Return the problem. It says so where the path has a WebSocket, and names the path without
    slashes at its end, with /v1 or /v2 once, or with it, where that has a route."""
    asked, path = scope["path"], scope["path"].rstrip("/")
    if path == asked and any(
        route.matches({**scope, "type": "websocket"})[0] is Match.FULL for route in router.routes
    ):
        return Problem(Error.NOT_FOUND, f"{asked} is a WebSocket: {_HOW}.")
    once = one_version(path)
    if once != path and _has_route(once, scope, router):
        detail = f"No such path: {asked}; did you mean {once}? {_WITHOUT}"
        return Problem(Error.NOT_FOUND, detail)
    root = scope.get("root_path", "")
    below = path.removeprefix(root)
    longer = (f"{root}{prefix}{below}" for prefix in _PREFIXES if below)
    meant = (each for each in (path, *longer) if _has_route(each, scope, router))
    return not_found(asked, next(meant, None))


def _has_route(path: str, scope: Scope, router: Router) -> bool:
    """Return whether a path has a route, of whatever method."""
    # The server takes no WebSocket at a path without one, and asks for it as for a page.
    asked = [{"method": "GET", **scope, "path": path, "type": t} for t in ("http", "websocket")]
    matches = [route.matches(each)[0] for route in router.routes for each in asked]
    return bool({Match.PARTIAL, Match.FULL} & {*matches})
