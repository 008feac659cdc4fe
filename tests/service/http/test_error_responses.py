"""The headers of a problem's answer."""

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
def test_whoever_waits_as_long_as_retry_after_has_waited_long_enough(seconds: float) -> None:
    header = int(answer(Error.FULL, seconds).headers["Retry-After"])
    assert header == max(1, math.ceil(seconds))
    assert header >= seconds


def test_what_is_not_worth_another_try_has_no_retry_after() -> None:
    assert "Retry-After" not in answer(Error.UNUSABLE).headers


@pytest.mark.parametrize("error", Error)
def test_a_connection_is_closed_by_a_service_that_stops_alone(error: Error) -> None:
    closes = answer(error).headers.get("Connection") == "close"
    assert closes == (error is Error.STOPPING)
