"""Every error the service answers with, in one place: RFC 9457 `application/problem+json`."""

from __future__ import annotations

import math
from enum import Enum
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

MEDIA_TYPE = "application/problem+json"


class Error(Enum):
    """Kind of error: HTTP status, title. Its type is `urn:scmrl:error:` and its name."""

    UNREADABLE_FORM = (400, "The form could not be read")
    NOT_FOUND = (404, "There is nothing at this address")
    UNKNOWN_MODEL = (404, "There is no checkpoint of this name")
    METHOD_NOT_ALLOWED = (405, "This address does not take this method")
    TOO_LARGE = (413, "The upload is over a limit")
    UNKNOWN_FORMAT = (415, "This is not a kind of file that is read here")
    UNUSABLE = (422, "The file was read but cannot be used")
    INVALID_FIELD = (422, "A field of the form is missing, unknown or out of range")
    INTERNAL = (500, "The service failed")
    NOT_READY = (503, "The checkpoint is not ready")
    MODEL_FAILED = (503, "The checkpoint could not be loaded")
    FULL = (503, "The service is full")
    DEADLINE = (504, "The answer was not ready in time")

    def __init__(self, status: int, title: str) -> None:
        self.status = status
        self.title = title

    @property
    def type(self) -> str:
        """The URI that names the kind of error."""
        return "urn:scmrl:error:" + self.name.lower().replace("_", "-")


class Problem(Exception):
    """An error on its way to the client.

    `detail` is for people: what was wrong with this request, and what would be accepted.
    `field` is the form field to blame, `retry_after_s` when it is worth trying again.
    """

    def __init__(
        self,
        error: Error,
        detail: str,
        *,
        field: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.error = error
        self.detail = detail
        self.field = field
        self.retry_after_s = retry_after_s

    def body(self, request_id: str | None = None) -> dict[str, Any]:
        """The problem document, without empty members."""
        members = {
            "type": self.error.type,
            "title": self.error.title,
            "status": self.error.status,
            "detail": self.detail,
            "field": self.field,
            "id": request_id,
        }
        return {name: value for name, value in members.items() if value is not None}


#: Statuses that Starlette itself raises.
_OWN_STATUSES = {404: Error.NOT_FOUND, 405: Error.METHOD_NOT_ALLOWED, 413: Error.TOO_LARGE}


def respond(
    request: Request, problem: Problem, headers: dict[str, str] | None = None
) -> JSONResponse:
    """The answer to a problem; `request.state.id` is the id that the log has."""
    request.state.problem = problem
    headers = dict(headers or {})
    if problem.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, math.ceil(problem.retry_after_s)))
    return JSONResponse(
        problem.body(request.state.id),
        status_code=problem.error.status,
        headers=headers,
        media_type=MEDIA_TYPE,
    )


def install(app: FastAPI) -> None:
    """Make the app answer every error it knows with a problem document."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation_error)


async def _problem(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, Problem)
    return respond(request, exc)


async def _http_exception(request: Request, exc: Exception) -> JSONResponse:
    """Starlette's own: no such route, wrong method."""
    assert isinstance(exc, HTTPException)
    fallback = Error.UNREADABLE_FORM if exc.status_code < 500 else Error.INTERNAL
    error = _OWN_STATUSES.get(exc.status_code, fallback)
    path, method = request.url.path, request.method
    details = {
        Error.NOT_FOUND: f"There is nothing at {path}; /docs lists what there is.",
        Error.METHOD_NOT_ALLOWED: f"{path} does not take {method}; /docs says what it does.",
    }
    detail = details.get(error) or str(exc.detail) or HTTPStatus(exc.status_code).phrase
    return respond(request, Problem(error, detail), dict(exc.headers or {}))


async def _validation_error(request: Request, exc: Exception) -> JSONResponse:
    """FastAPI's own: a parameter in the path or the query that does not validate."""
    assert isinstance(exc, RequestValidationError)
    first = exc.errors()[0]
    field = str(first["loc"][-1])
    return respond(request, Problem(Error.INVALID_FIELD, f"{field}: {first['msg']}", field=field))
