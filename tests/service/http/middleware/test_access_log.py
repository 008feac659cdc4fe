"""An id for each request, and a line of log under it."""

from __future__ import annotations

import asyncio
import logging
import re
import socket

import httpx
import pytest

from service.app import create_app
from service.settings import Settings
from tests.service.integration.test_refusals import logged, problem
from tests.service.running_server import listening, wait_until


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "scmrl")
    return caplog


def test_every_answer_has_an_id_of_its_own(service: httpx.Client) -> None:
    ids = {service.get("/healthz").headers["X-Request-ID"] for _ in range(5)}
    assert len(ids) == 5


def test_a_client_may_choose_the_id(service: httpx.Client, clip: bytes) -> None:
    chosen = {"X-Request-ID": "trace-1234_5.6"}
    response = service.post("/v1/classify", files={"clip": clip}, headers=chosen)
    assert response.headers["X-Request-ID"] == response.json()["id"] == "trace-1234_5.6"


@pytest.mark.parametrize("forged", ["a b", "x" * 65, "id=1", "é", ""])
def test_an_id_that_could_forge_a_line_of_log_is_replaced(
    service: httpx.Client, forged: str
) -> None:
    headers = {b"X-Request-ID": forged.encode()}
    request_id = service.get("/healthz", headers=headers).headers["X-Request-ID"]
    assert re.fullmatch("[0-9a-f]{32}", request_id)


def test_the_line_of_an_answer_tells_what_it_took(
    service: httpx.Client, clip: bytes, log: pytest.LogCaptureFixture
) -> None:
    response = service.post("/v1/classify", files={"clip": clip})
    line = logged(log, response.json()["id"])
    assert "POST '/v1/classify' 200" in line
    for note in ("model='avdigits'", "steps=4", "streams='audio+visual'", "batch=1", "queue_ms="):
        assert note in line


def test_supervisors_leave_no_lines(service: httpx.Client, log: pytest.LogCaptureFixture) -> None:
    for path in ("/healthz", "/readyz", "/healthz"):
        service.get(path)
    logged(log, service.get("/nowhere").headers["X-Request-ID"])
    assert not [line for line in log.messages if "healthz" in line or "readyz" in line]


def test_a_path_cannot_forge_a_line(service: httpx.Client, log: pytest.LogCaptureFixture) -> None:
    response = service.get("/a%0Aid=forged%20GET%20200")
    assert "\n" not in logged(log, response.headers["X-Request-ID"])


def test_a_bug_is_a_500_that_tells_nothing_of_the_inside(
    log: pytest.LogCaptureFixture,
) -> None:
    app = create_app(Settings(models="/nowhere"))

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("the secret inside")

    with listening(app) as client:
        response = client.get("/broken")
    body = problem(response)
    assert response.status_code == 500
    assert "secret" not in response.text
    wait_until(lambda: "the secret inside" in log.text)
    assert f"id={body['id']} unexpected error" in log.text


def test_a_client_that_leaves_while_it_sends_is_a_line_and_no_error(
    service: httpx.Client, log: pytest.LogCaptureFixture
) -> None:
    with socket.create_connection((service.base_url.host, service.base_url.port or 80)) as caller:
        caller.sendall(
            b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nX-Request-ID: leaver\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 999\r\n\r\n--b\r\n"
        )
    assert " 499 " in logged(log, "id=leaver")
    assert "Traceback" not in log.text


@pytest.mark.parametrize(("is_draining", "status"), [(False, 499), (True, 503)])
def test_a_cancelled_request_is_one_of_a_client_that_left_until_the_service_stops(
    is_draining: bool, status: int, log: pytest.LogCaptureFixture
) -> None:
    """Ray cancels requests whose clients leave, uvicorn those that outlast the grace period."""
    app = create_app(Settings(models="/nowhere"))

    async def leave() -> int:
        begun = asyncio.Event()

        @app.get("/hanging")
        async def hanging() -> None:
            begun.set()
            await asyncio.Event().wait()

        if is_draining:
            app.state.scmrl.in_flight.drain()
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://service"
        ) as client:
            request = asyncio.create_task(client.get("/hanging", headers={"X-Request-ID": "left"}))
            await begun.wait()
            request.cancel()
            return (await request).status_code

    if is_draining:
        assert asyncio.run(leave()) == status
    else:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(leave())
    assert f" {status} " in logged(log, "id=left")
