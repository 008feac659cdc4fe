"""Call an app without a server, also with headers that no client would send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.types import Message, Scope

_Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Answer:
    """A response. `read`: whether the app read any of the request's body."""

    status: int
    headers: Headers
    body: bytes
    read: bool

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json", self.body
        document = json.loads(self.body)
        assert document["status"] == self.status
        assert document["id"] == self.headers["x-request-id"]
        return dict(document)


def ask(
    app: FastAPI, path: str, headers: _Headers = (), *, method: str = "GET", root: str = ""
) -> Answer:
    """Return the app's response to one request with a body of one byte."""
    read = False

    async def receive() -> Message:
        nonlocal read
        read = True
        return {"type": "http.request", "body": b"x", "more_body": False}

    start, *rest = _run(app, {**_scope("http", path, headers, root), "method": method}, receive)
    return Answer(
        start["status"],
        Headers(raw=start["headers"]),
        b"".join(message.get("body", b"") for message in rest),
        read,
    )


def open_socket(
    app: FastAPI, path: str, headers: _Headers = (), *, answers: bool = True
) -> list[Message]:
    """Return the messages of the app to a client that opens a WebSocket and disconnects.

    `answers`: whether the server supports an HTTP response instead (websocket.http.response).
    """
    messages: list[Message] = [
        {"type": "websocket.connect"},
        {"type": "websocket.disconnect", "code": 1000},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    scope = _scope("websocket", path, headers, "")
    scope["extensions"] = {"websocket.http.response": {}} if answers else {}
    return _run(app, scope, receive)


def _scope(kind: str, path: str, headers: _Headers, root: str) -> Scope:
    return {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": root,
        "query_string": b"",
        "headers": list(headers),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "subprotocols": [],
    }


def _run(app: FastAPI, scope: Scope, receive: Any) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent
