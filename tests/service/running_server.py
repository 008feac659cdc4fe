"""The service on a free port, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from service.app import create_app
from service.inference.loading import LOAD_THREAD
from service.server.listener import listen
from service.server.server import server_of
from service.settings import Settings

#: Time limit of waits, in seconds.
_WITHIN_S = 120.0


@contextmanager
def listening(app: FastAPI) -> Iterator[httpx.Client]:
    """A client of the app behind uvicorn; the checkpoints may still be loading."""
    with serving(app, server_of(app)) as client:
        yield client


@contextmanager
def serving(app: FastAPI, server: uvicorn.Server) -> Iterator[httpx.Client]:
    """A client of the app behind this server, which ends with the block at the latest."""
    listener = listen("127.0.0.1", 0)

    async def serve() -> None:
        async with app.router.lifespan_context(app):
            await server.serve(sockets=[listener])

    def run() -> None:
        with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
            runner.run(serve())

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx.Client(base_url=address, timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join(_WITHIN_S)
        assert not thread.is_alive(), "it does not end"
        wait_until(lambda: not loading())  # torch may crash in a thread at Python's exit


@contextmanager
def running(weights: Path, **settings: Any) -> Iterator[httpx.Client]:
    """A client of a service whose checkpoints have all been loaded or have failed."""
    with listening(create_app(Settings(models=weights, **settings))) as client:
        until_ready(client)
        wait_until(lambda: "loading" not in statuses(client).values())
        yield client


def loading() -> bool:
    """Return whether a service in this process is still loading checkpoints."""
    return any(thread.name == LOAD_THREAD for thread in threading.enumerate())


def until_ready(client: httpx.Client) -> None:
    """Wait until the service is ready; fail at once if it reports that it cannot be."""

    def ready() -> bool:
        answer = client.get("/readyz")
        assert "No decoding process can be started" not in answer.text
        return answer.status_code == 200

    wait_until(ready)


def statuses(client: httpx.Client) -> dict[str, str]:
    """Return the status of each checkpoint by name, the default one first."""
    models = client.get("/v1/models").json()["models"]
    return {model["name"]: model["status"] for model in models}


def wait_until(happened: Callable[[], bool]) -> None:
    """Wait until `happened()`, up to the time limit."""
    end = time.monotonic() + _WITHIN_S
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
