"""The headers of a problem's response."""

from __future__ import annotations

import math

import pytest
from starlette.requests import Request
from starlette.responses import Response

from service.errors import Error, Problem
from service.http.error_responses import respond


def answer(error: Error, retry_after_s: float | None = None) -> Response:
    request = Request({"type": "http", "method": "GET", "path": "/", "headers": [], "state": {}})
    return respond(request, Problem(error, "of a test", retry_after_s=retry_after_s))


@pytest.mark.parametrize("seconds", [0.0, 0.2, 1.0, 1.01, 1.5, 7.999, 60.2])
def test_retry_after_is_rounded_up(seconds: float) -> None:
    header = int(answer(Error.FULL, seconds).headers["Retry-After"])
    assert header == max(1, math.ceil(seconds))
    assert header >= seconds


def test_an_error_that_no_retry_can_mend_has_no_retry_after() -> None:
    assert "Retry-After" not in answer(Error.UNUSABLE).headers


@pytest.mark.parametrize("error", Error)
def test_only_a_service_that_stops_closes_the_connection(error: Error) -> None:
    closes = answer(error).headers.get("Connection") == "close"
    assert closes == (error is Error.STOPPING)
