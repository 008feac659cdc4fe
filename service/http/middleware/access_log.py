"""Request ids, the access log, and 500 responses without details of the implementation."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable, Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from service.errors import Error, Problem
from service.http.error_responses import send_problem
from service.observability.logs import Event
from service.observability.request_log import CLIENT_GONE, RequestLog
from service.request_record import CompletedRequest, RequestRecord, request_id

log = logging.getLogger("scmrl.access")

#: Ids that clients may choose: without line ends, which could forge a line of the log.
_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

#: Codes that a WebSocket is closed with where its route returned without, or failed (RFC 6455).
_DONE, _FAILED = 1000, 1011


class AccessLog:
    """Set `request.state.id`, send it as X-Request-ID, log one line for each request.

    Routes fill in `request.state.record`.

    A WebSocket is one request, with status 101 and the code that it was closed with; it is
    completed when it ends. `request.state.accepted` says whether it has been accepted.

    A request that is cancelled gets a 503 while `is_draining()`; otherwise its client has gone.

    `routes`: those of the application, by which a request is counted that was refused before its
    route was looked for, as one without a key.
    """

    def __init__(
        self,
        app: ASGIApp,
        request_log: RequestLog,
        is_draining: Callable[[], bool],
        routes: Sequence[BaseRoute] = (),
    ) -> None:
        self.app = app
        self._request_log = request_log
        self._is_draining = is_draining
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return

        started = time.perf_counter()
        this_id = _request_id(Headers(scope=scope))
        id_header = [(b"x-request-id", this_id.encode())]
        token = request_id.set(this_id)
        state = scope.setdefault("state", {})
        record = RequestRecord()
        state.update(id=this_id, record=record, problem=None, accepted=False)
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = this_id
            elif message["type"] == "websocket.accept":
                status, state["accepted"] = 101, True
                message = {**message, "headers": [*message.get("headers", ()), *id_header]}
            elif message["type"] == "websocket.close":
                status = status or 403  # what the server sends in its place
                record.notes.setdefault("close_code", int(message.get("code", 1000)))
            await send(message)

        async def receive_noting_close() -> Message:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                record.notes.setdefault("close_code", int(message.get("code", 1005)))
            return message

        try:
            await self.app(scope, receive_noting_close, send_with_id)
            if state["accepted"] and "close_code" not in record.notes:  # the route has returned
                await send_with_id({"type": "websocket.close", "code": _DONE})
        except ClientDisconnect:
            status = CLIENT_GONE
        except WebSocketDisconnect:
            pass  # a route need not catch it
        except asyncio.CancelledError:
            if not self._is_draining():  # by Ray's proxy, whose client has gone
                raise
            if status is None:  # by the server, at the end of its grace period
                detail = "The service was shut down before it could answer."
                problem = Problem(Error.STOPPING, detail, retry_after_s=5)
                await send_problem(problem, scope, receive, send_with_id)
        except Exception:
            log.exception(Event("unexpected error", {"id": this_id}))
            if status is None:
                problem = Problem(
                    Error.INTERNAL, "This is a bug; the log has the details under this id."
                )
                await send_problem(problem, scope, receive, send_with_id)
            elif state["accepted"] and "close_code" not in record.notes:
                await send_with_id({"type": "websocket.close", "code": _FAILED})
        finally:
            status = CLIENT_GONE if status is None else status
            self._request_log.complete(_completed(scope, status, started, self._routes))
            request_id.reset(token)


def _request_id(headers: Headers) -> str:
    proposed = headers.get("x-request-id", "")
    return proposed if _ACCEPTABLE_ID.fullmatch(proposed) else uuid.uuid4().hex


def _template(scope: Scope, routes: Sequence[BaseRoute]) -> str | None:
    """Return the template of a request's path, as `/v1/models/{name}`; None for an unknown one."""
    reached = scope.get("route")
    matching = (route for route in routes if route.matches(scope)[0] is not Match.NONE)
    return getattr(reached or next(matching, None), "path", None)


def _completed(
    scope: Scope, status: int, started: float, routes: Sequence[BaseRoute]
) -> CompletedRequest:
    state = scope["state"]
    return CompletedRequest(
        id=state["id"],
        method=scope.get("method", "GET"),  # which a WebSocket's handshake is
        path=scope["path"],
        # The template, since clients can invent any number of paths.
        route=_template(scope, routes),
        headers=Headers(scope=scope),
        status=status,
        started=started,
        ended=time.perf_counter(),
        record=state["record"],
        problem=state["problem"],
    )
