"""One id and one line of log for each request, and a 500 that tells nothing of the inside."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import Error, Problem
from service.http.error_responses import respond
from service.observability.logs import Event
from service.request_record import Account, Answered, request_id

log = logging.getLogger("scmrl.access")

#: A client may choose its request's id, as long as it cannot forge lines of log with it.
_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

#: What nginx logs for a client that went away; nobody receives it.
CLIENT_GONE = 499

#: What no client of a sound make gets: it, or something on the way to it, is broken or hostile.
_NO_HTTP = frozenset({Error.MALFORMED, Error.HEAD_TIMEOUT, Error.HEAD_TOO_LARGE})


class AccessLog:
    """Gives `request.state.id`, sends it as X-Request-ID, logs one line.

    Routes fill in `request.state.account`. `measure` is told of each request that has been
    answered; `trace` as well, and gives the id of the trace that it made of it.
    """

    def __init__(
        self,
        app: ASGIApp,
        measure: Callable[[Answered], None],
        trace: Callable[[Answered], str | None] | None = None,
    ) -> None:
        self.app = app
        self._measure = measure
        self._trace = trace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        started = time.perf_counter()
        this = _request_id(Headers(scope=scope))
        known = request_id.set(this)
        state = scope.setdefault("state", {})
        state.update(id=this, account=Account(), problem=None)
        status: int | None = None

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-ID"] = this
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = CLIENT_GONE
        except asyncio.CancelledError:  # by the server, whose time to stop is over
            if status is None:
                detail = "The service was stopped before this was answered."
                problem = Problem(Error.STOPPING, detail, retry_after_s=5)
                await respond(Request(scope), problem)(scope, receive, send_with_id)
        except Exception:
            log.exception(Event("unexpected error", {"id": this}))
            if status is None:
                problem = Problem(Error.INTERNAL, "This is a bug; the log has it under this id.")
                await respond(Request(scope), problem)(scope, receive, send_with_id)
        finally:
            self._conclude(_answered(scope, CLIENT_GONE if status is None else status, started))
            request_id.reset(known)

    def _conclude(self, answered: Answered) -> None:
        self._measure(answered)
        trace_id = self._trace(answered) if self._trace is not None else None
        log.log(_level(answered), _line(answered, trace_id))


def _level(answered: Answered) -> int:
    if answered.quiet:
        return logging.DEBUG
    is_no_http = answered.problem is not None and answered.problem.error in _NO_HTTP
    return logging.WARNING if is_no_http else logging.INFO


def _request_id(headers: Headers) -> str:
    asked = headers.get("x-request-id", "")
    return asked if _ACCEPTABLE_ID.fullmatch(asked) else uuid.uuid4().hex


def _answered(scope: Scope, status: int, started: float) -> Answered:
    state = scope["state"]
    return Answered(
        id=state["id"],
        method=scope["method"],
        path=scope["path"],
        # The template: a path may hold what a client made up, and there is no end of those.
        route=getattr(scope.get("route"), "path", None),
        headers=Headers(scope=scope),
        status=status,
        started=started,
        ended=time.perf_counter(),
        account=state["account"],
        problem=state["problem"],
    )


def _line(answered: Answered, trace_id: str | None) -> Event:
    fields = dict(answered.fields)
    if trace_id is not None:
        fields["trace_id"] = trace_id
    said = ("id", "method", "path", "status", "duration_ms")
    message = "{method} {path!r} {status} {duration_ms:.1f}ms".format(**fields)
    return Event(message, fields, {n: v for n, v in fields.items() if n not in said})
