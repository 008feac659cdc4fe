"""The server in front of a small app, and a client that sends raw bytes."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from starlette.responses import JSONResponse, Response

from service.errors import Error, Problem
from service.http import error_responses
from service.http.middleware.access_log import AccessLog
from service.http.middleware.body_limit import BodyLimit
from service.observability.request_log import RequestLog
from service.runtime.upload_budget import UploadBudget
from service.server.connection import Connection
from service.server.connections import Connections
from service.server.limits import ConnectionLimits
from service.server.listener import listen
from service.server.refusal import refuse
from service.server.server import has_websocket, make_server

#: Time limit of waits, in seconds.
WITHIN_S = 60.0

CHUNKED = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
GET = b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"


def post(body: bytes, path: str = "/echo", *lines: str) -> bytes:
    """Return a complete request."""
    head = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection. Reading raises EOFError where the server has closed it."""

    def __init__(self, address: tuple[str, int], receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(WITHIN_S)
        self.socket.connect(address)
        self._file = self.socket.makefile("rb")

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.socket.sendall(piece)

    def end(self) -> None:
        """Close the writing side."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def answer(self, method: str = "GET") -> Answer:
        """Read the next response, which may be an interim one."""
        status = int(self._line().split(" ")[1])
        headers: dict[str, str] = {}
        while line := self._line():
            name, _, value = line.partition(": ")
            assert name not in headers
            headers[name.lower()] = value
        if status < 200 or status in (204, 304) or method == "HEAD":
            return Answer(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            body = b"".join(self._chunks())
        else:
            body = self._file.read(int(headers["content-length"]))
            assert len(body) == int(headers["content-length"])
        return Answer(status, headers, body)

    def _line(self) -> str:
        line = self._file.readline()
        if not line:
            raise EOFError
        assert line.endswith(b"\r\n"), line
        return line[:-2].decode("latin-1")

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._line(), 16):
            yield self._file.read(size)
            self._line()
        self._line()

    def is_closed(self) -> bool:
        """Wait for data or the end of the connection; return True if it has ended."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Edge:
    """A running server. `gone` is set when the client of a GET /wait has gone; `release` lets
    those answer that wait. `started` counts requests of /wait that have begun."""

    def __init__(self, address: tuple[str, int], connections: Connections) -> None:
        self.address = address
        self.connections = connections
        self.started = threading.Semaphore(0)
        self.gone = threading.Event()
        self.release = threading.Event()

    def connect(self, receive_buffer: int | None = None) -> Client:
        return Client(self.address, receive_buffer)

    def ask(self, *pieces: bytes) -> Answer:
        """Return the response to data that is sent on a new connection."""
        with self.connect() as client:
            client.send(*pieces)
            return client.answer()

    @property
    def open(self) -> list[Connection]:
        return list(self.connections._open)


def app_of(edge: Edge, min_rate: int) -> FastAPI:
    app = FastAPI(openapi_url=None)
    error_responses.install(app)
    app.add_middleware(
        BodyLimit,
        max_bytes=10**7,
        budget=UploadBudget(10**8),
        max_seconds=WITHIN_S,
        min_rate=min_rate,
    )
    app.add_middleware(
        AccessLog, request_log=RequestLog(lambda answered: None), is_draining=lambda: False
    )

    @app.api_route("/echo", methods=["GET", "HEAD", "POST"])
    async def echo(request: Request) -> Response:
        return Response(await request.body(), headers={"X-Method": request.method})

    @app.get("/headers")
    async def headers(request: Request) -> Response:
        return JSONResponse([[n.decode(), v.decode("latin-1")] for n, v in request.headers.raw])

    @app.post("/early/{name}")
    async def early(name: str) -> Response:
        raise Problem(Error[name], "This is raised before the body is read.")

    @app.get("/bytes/{count}")
    async def sized(count: int) -> Response:
        return Response(bytes(count))

    @app.api_route("/empty/{status}", methods=["GET", "HEAD"])
    async def empty(status: int) -> Response:
        return Response(status_code=status)

    @app.api_route("/wait", methods=["GET", "POST"])
    async def wait(request: Request) -> Response:
        await request.body()
        edge.started.release()
        watching = asyncio.ensure_future(_disconnected(request))
        while not edge.release.is_set():
            if watching.done():
                edge.gone.set()
                break
            await asyncio.sleep(0.01)
        watching.cancel()
        return Response(b"waited")

    @app.websocket("/socket")
    async def socket(websocket: WebSocket) -> None:
        """Send each message back. "raise" raises, "problem" is refused, "end" ends the route."""
        await websocket.accept()
        while (text := await websocket.receive_text()) != "end":
            if text == "raise":
                raise RuntimeError("a bug")
            if text == "problem":
                raise Problem(Error.FULL, "Nothing is left. " + "x" * 200)
            await websocket.send_text(text)

    @app.websocket("/refused")
    async def refused(websocket: WebSocket) -> None:
        raise Problem(Error.UNKNOWN_MODEL, "That is known before it is accepted.")

    return app


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@contextmanager
def running_edge(
    *,
    maximum: int = 100,
    keep_alive_s: int = 60,
    min_rate: int = 1,
    listener: socket.socket | None = None,
    **limits: Any,
) -> Iterator[Edge]:
    """Run a server with these limits; the others have their defaults."""
    listener = listener or listen("127.0.0.1", 0)
    edge = Edge(listener.getsockname(), Connections(maximum))
    app = app_of(edge, min_rate)
    server = make_server(
        app,
        AccessLog(refuse, RequestLog(lambda answered: None), lambda: False),
        edge.connections,
        ConnectionLimits(**limits),
        keep_alive_s=keep_alive_s,
        grace_s=1,
        takes_websocket=lambda path: has_websocket(app, path),
    )

    def run() -> None:
        with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
            runner.run(server.serve(sockets=[listener]))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield edge
    finally:
        edge.release.set()
        server.should_exit = True
        thread.join(WITHIN_S)
        assert not thread.is_alive(), "it does not end"
