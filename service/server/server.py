"""uvicorn, configured for this service."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import uvicorn
from fastapi import FastAPI
from starlette.routing import Match, Mount
from starlette.types import ASGIApp

from service.http.state import State
from service.server.connection import Connection
from service.server.connections import Connections
from service.server.limits import ConnectionLimits
from service.server.listener import BACKLOG


def server_of(app: FastAPI) -> uvicorn.Server:
    """Return a server for an app from `create_app`."""
    state: State = app.state.scmrl
    return make_server(
        app,
        app.state.refuse,
        state.connections,
        ConnectionLimits.of(state.settings),
        keep_alive_s=state.settings.keep_alive_s,
        grace_s=int(state.settings.shutdown_grace_s),
        takes_websocket=lambda path: has_websocket(app, path),
    )


def has_websocket(app: FastAPI, path: str) -> bool:
    """Return whether one of the app's WebSocket routes has this path."""
    scope = {"type": "websocket", "path": path, "root_path": "", "headers": []}
    # A mount takes anything below its path.
    routes = [route for route in app.router.routes if not isinstance(route, Mount)]
    return any(route.matches(scope)[0] is Match.FULL for route in routes)


def make_server(
    app: ASGIApp,
    refuse: ASGIApp,
    connections: Connections,
    limits: ConnectionLimits,
    *,
    keep_alive_s: int,
    grace_s: int,
    takes_websocket: Callable[[str], bool] = lambda path: False,
) -> uvicorn.Server:
    """Return a server for any ASGI app.

    `refuse` responds to requests that a connection refuses. Times are in seconds: `keep_alive_s` of
    idle time between two requests, `grace_s` for requests in flight at shutdown. `takes_websocket`
    says of a path whether the app has a WebSocket there.
    """
    connection = partial(
        Connection,
        limits=limits,
        open_connections=connections,
        refuse=refuse,
        takes_websocket=takes_websocket,
    )
    config = uvicorn.Config(
        app,
        http=connection,  # type: ignore[arg-type]
        ws="none",  # `Connection` hands over to a WebSocketConnection itself
        ws_max_size=limits.max_message_bytes,
        ws_per_message_deflate=False,  # media is compressed already
        loop="uvloop",
        backlog=BACKLOG,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",  # its caller enters it: a second signal would stop it half-way
        timeout_keep_alive=keep_alive_s,
        timeout_graceful_shutdown=grace_s,
    )
    return uvicorn.Server(config)
