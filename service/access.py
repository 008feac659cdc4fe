"""One id and one line of log for each request, and a 500 that tells nothing of the inside."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.error_responses import respond
from service.errors import Error, Problem

log = logging.getLogger("scmrl.access")

#: A client may choose its request's id, as long as it cannot forge lines of log with it.
_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

#: What nginx logs for a client that went away; nobody receives it.
CLIENT_GONE = 499


class AccessLog:
    """Outermost middleware: gives `request.state.id`, sends it as X-Request-ID, logs one line.

    Routes put what is worth logging into `request.state.notes`; uploads never belong there.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        started = time.perf_counter()
        request_id = _request_id(Headers(scope=scope))
        state = scope.setdefault("state", {})
        state.update(id=request_id, notes={}, problem=None)
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = CLIENT_GONE
        except Exception:
            log.exception("id=%s unexpected error", request_id)
            if status is None:
                problem = Problem(Error.INTERNAL, "This is a bug; the log has it under this id.")
                response = respond(Request(scope), problem)
                await response(scope, receive, send_with_id)
        finally:
            _log_line(scope, status, time.perf_counter() - started)


def _request_id(headers: Headers) -> str:
    asked = headers.get("x-request-id", "")
    return asked if _ACCEPTABLE_ID.fullmatch(asked) else uuid.uuid4().hex


def _log_line(scope: Scope, status: int | None, seconds: float) -> None:
    state = scope["state"]
    notes = dict(state["notes"])
    problem: Problem | None = state["problem"]
    if problem is not None:
        notes["error"] = problem.error.name.lower()
        notes["detail"] = problem.detail
    quiet = scope["path"] in ("/healthz", "/readyz") and status == 200
    log.log(
        logging.DEBUG if quiet else logging.INFO,
        "id=%s %s %r %s %.1fms%s",
        state["id"],
        scope["method"],
        scope["path"],
        status if status is not None else CLIENT_GONE,
        1000 * seconds,
        "".join(f" {name}={value!r}" for name, value in notes.items()),
    )
