"""Answer every error of a route, of Starlette and of FastAPI: with a problem document, or with that
of the Open Inference Protocol."""

from __future__ import annotations

import math
from http import HTTPStatus

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from model.validation import describe
from service.errors import Error, Problem
from service.http.paths import is_open_inference, route_path
from service.http.problem_document import MEDIA_TYPE, make_document

#: Statuses that Starlette itself raises.
_STARLETTE_STATUSES = {404: Error.NOT_FOUND, 405: Error.METHOD_NOT_ALLOWED, 413: Error.TOO_LARGE}
#: Codes that a problem closes a WebSocket with, once it has been accepted.
_POLICY, _INTERNAL, _RESTARTS, _TRY_AGAIN_LATER = 1008, 1011, 1012, 1013
#: The ASGI extension by which a server sends a response in place of a WebSocket.
_DENIAL = "websocket.http.response"
#: Bytes of the reason in a close frame (RFC 6455, section 5.5).
_MAX_REASON_BYTES = 123


def respond(
    request: HTTPConnection, problem: Problem, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Return the response to a problem, with the request's id."""
    request.state.problem = problem
    headers = dict(headers or {})
    if problem.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(problem.retry_after_s)))
    if problem.error is Error.UNSUPPORTED_ENCODING:
        accepted = "gzip, deflate" if is_open_inference(route_path(request.scope)) else "identity"
        headers["Accept-Encoding"] = accepted
    if problem.error is Error.STOPPING:  # a further request would meet a closed connection
        headers["Connection"] = "close"
    status = problem.error.status
    if is_open_inference(route_path(request.scope)):
        return JSONResponse({"error": problem.detail}, status_code=status, headers=headers)
    document = make_document(problem, getattr(request.state, "id", None))
    return JSONResponse(document, status_code=status, headers=headers, media_type=MEDIA_TYPE)


async def send_problem(
    problem: Problem,
    scope: Scope,
    receive: Receive,
    send: Send,
    headers: dict[str, str] | None = None,
) -> None:
    """Answer a request, or refuse a WebSocket, with a problem, outside of the routes.

    A server that cannot send a response in place of a WebSocket has to close it.
    """
    response = respond(HTTPConnection(scope), problem, headers)
    if scope["type"] == "websocket" and _DENIAL not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": _POLICY, "reason": ""})
    else:
        await response(scope, receive, send)


def not_found(path: str, instead: str | None = None) -> Problem:
    """Return the problem of a path without a route; `instead`: one that the client may mean."""
    meant = f"did you mean {instead}? See" if instead else "see"
    return Problem(Error.NOT_FOUND, f"No such path: {path}; {meant} /docs.")


def install(app: FastAPI) -> None:
    """Answer all errors of the app with problem documents."""
    # Starlette's types have no handler of requests and WebSockets.
    app.add_exception_handler(Problem, _problem)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation_error)


async def _problem(request: HTTPConnection, exc: Exception) -> JSONResponse | None:
    assert isinstance(exc, Problem)
    if isinstance(request, WebSocket) and request.state.accepted:
        request.state.problem = exc
        await request.close(_close_code(exc.error), _close_reason(exc.detail))
        return None
    return respond(request, exc)


def _close_code(error: Error) -> int:
    """Return the code (RFC 6455 and its registry) that a problem closes a WebSocket with."""
    if error is Error.STOPPING:
        return _RESTARTS
    if error.status < 500 and error is not Error.RATE_LIMIT:
        return _POLICY
    return _INTERNAL if error is Error.INTERNAL else _TRY_AGAIN_LATER


def _close_reason(detail: str) -> str:
    """Return as much of a problem's detail as a close frame holds."""
    return detail.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")


async def _http_exception(request: HTTPConnection, exc: Exception) -> JSONResponse:
    """Convert Starlette's errors: no such route, wrong method."""
    assert isinstance(exc, HTTPException)
    fallback = Error.UNREADABLE_FORM if exc.status_code < 500 else Error.INTERNAL
    error = _STARLETTE_STATUSES.get(exc.status_code, fallback)
    path, method = request.url.path, request.scope.get("method", "GET")
    headers = dict(exc.headers or {})
    allowed = " or ".join(sorted(headers.get("Allow", "").split(", ")))
    instead = f"send {allowed}, see" if allowed else "see"
    details = {
        Error.NOT_FOUND: not_found(path).detail,
        Error.METHOD_NOT_ALLOWED: f"{path} does not allow {method}; {instead} /docs.",
    }
    detail = details.get(error) or str(exc.detail) or HTTPStatus(exc.status_code).phrase
    return respond(request, Problem(error, detail), headers)


async def _validation_error(request: HTTPConnection, exc: Exception) -> JSONResponse:
    """Convert FastAPI's errors: invalid parameters in path or query."""
    assert isinstance(exc, RequestValidationError)
    first = exc.errors()[0]
    field = str(first["loc"][-1])
    return respond(
        request, Problem(Error.INVALID_FIELD, f"{field}: {describe(first)}", field=field)
    )
