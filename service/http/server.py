"""uvicorn, set up for this service."""

from __future__ import annotations

from functools import partial

import uvicorn
from fastapi import FastAPI

from service.http.connection import Connection
from service.http.limits import ConnectionLimits
from service.http.listener import BACKLOG
from service.state import State


def server_of(app: FastAPI) -> uvicorn.Server:
    """The server of an app that `create_app` made."""
    state: State = app.state.scmrl
    settings = state.settings
    connection = partial(
        Connection,
        limits=ConnectionLimits.of(settings),
        open_connections=state.connections,
        refuse=app.state.refuse,
    )
    config = uvicorn.Config(
        app,
        http=connection,  # type: ignore[arg-type]
        ws="none",
        loop="uvloop",
        backlog=BACKLOG,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",  # a second signal would leave it half-way: its caller enters it
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=int(settings.shutdown_grace_s),
    )
    return uvicorn.Server(config)
