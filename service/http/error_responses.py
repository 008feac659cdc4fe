"""Answer every error of a route, of Starlette and of FastAPI with a problem document."""

from __future__ import annotations

import math
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse

from service.errors import Error, Problem
from service.http.problem_document import MEDIA_TYPE, make_document

#: Statuses that Starlette itself raises.
_STARLETTE_STATUSES = {404: Error.NOT_FOUND, 405: Error.METHOD_NOT_ALLOWED, 413: Error.TOO_LARGE}


def respond(
    request: HTTPConnection, problem: Problem, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Return the response to a problem, with the request's id (a WebSocket may have none)."""
    request.state.problem = problem
    headers = dict(headers or {})
    if problem.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(problem.retry_after_s)))
    if problem.error is Error.UNSUPPORTED_ENCODING:
        headers["Accept-Encoding"] = "identity"
    if problem.error is Error.STOPPING:  # a further request would meet a closed connection
        headers["Connection"] = "close"
    return JSONResponse(
        make_document(problem, getattr(request.state, "id", None)),
        status_code=problem.error.status,
        headers=headers,
        media_type=MEDIA_TYPE,
    )


def not_found(path: str) -> Problem:
    """Return the problem of a path without a route."""
    return Problem(Error.NOT_FOUND, f"No such path: {path}; /docs lists all paths.")


def install(app: FastAPI) -> None:
    """Answer all errors of the app with problem documents."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation_error)


async def _problem(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, Problem)
    return respond(request, exc)


async def _http_exception(request: Request, exc: Exception) -> JSONResponse:
    """Convert Starlette's errors: no such route, wrong method."""
    assert isinstance(exc, HTTPException)
    fallback = Error.UNREADABLE_FORM if exc.status_code < 500 else Error.INTERNAL
    error = _STARLETTE_STATUSES.get(exc.status_code, fallback)
    path, method = request.url.path, request.method
    details = {
        Error.NOT_FOUND: not_found(path).detail,
        Error.METHOD_NOT_ALLOWED: f"{path} does not allow {method}; /docs lists its methods.",
    }
    detail = details.get(error) or str(exc.detail) or HTTPStatus(exc.status_code).phrase
    return respond(request, Problem(error, detail), dict(exc.headers or {}))


async def _validation_error(request: Request, exc: Exception) -> JSONResponse:
    """Convert FastAPI's errors: invalid parameters in path or query."""
    assert isinstance(exc, RequestValidationError)
    first = exc.errors()[0]
    field = str(first["loc"][-1])
    return respond(request, Problem(Error.INVALID_FIELD, f"{field}: {first['msg']}", field=field))
