"""uvicorn, configured for this service."""

from __future__ import annotations

from functools import partial

import uvicorn
from fastapi import FastAPI
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
    )


def make_server(
    app: ASGIApp,
    refuse: ASGIApp,
    connections: Connections,
    limits: ConnectionLimits,
    *,
    keep_alive_s: int,
    grace_s: int,
) -> uvicorn.Server:
    """Return a server for any ASGI app.

    `refuse` responds to requests that a connection refuses. Times are in seconds: `keep_alive_s` of
    idle time between two requests, `grace_s` for requests in flight at shutdown.
    """
    connection = partial(Connection, limits=limits, open_connections=connections, refuse=refuse)
    config = uvicorn.Config(
        app,
        http=connection,  # type: ignore[arg-type]
        ws="none",
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
