"""Answers that are given before the request has ended, and clients that end or go."""

from __future__ import annotations

import contextlib
import socket
import struct
import time

import pytest

from service.app import create_app
from service.errors import Error
from service.settings import Settings
from tests.service.running_server import listening, wait_until
from tests.service.server.edge import CHUNKED, GET, Client, Edge, post, running_edge

BODY = bytes(3_000_000)
WAIT = b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("error", Error)
def test_a_client_that_still_writes_can_read_an_early_response(
    shared_edge: Edge, error: Error, chunked: bool
) -> None:
    head, body = post(BODY, f"/early/{error.name}")[: -len(BODY)], BODY
    if chunked:
        head = head.replace(b"Content-Length: 3000000", b"Transfer-Encoding: chunked")
        body = b"%x\r\n%s\r\n" % (len(BODY), BODY)
    with shared_edge.connect() as client:
        client.send(head, body)
        answer = client.answer()
        assert (answer.status, answer.headers["connection"]) == (error.status, "close")
        assert answer.json()["type"] == error.type
        assert client.is_closed()


@pytest.mark.parametrize("path", ["/nothing", "/bytes/5", "/echo"])
def test_a_client_that_still_writes_can_read_an_early_response_of_the_framework(
    shared_edge: Edge, path: str
) -> None:
    request = post(BODY, path).replace(b"POST", b"PUT", 1)
    with shared_edge.connect() as client:
        client.send(request)
        answer = client.answer()
        assert answer.status in (404, 405)
        assert answer.headers["connection"] == "close"


def test_an_unwanted_body_is_read_for_a_limited_time() -> None:
    with running_edge(linger_s=0.3) as edge, edge.connect() as client:
        client.send(post(BODY, "/early/TOO_LARGE")[:1000])
        assert client.answer().status == 413
        with contextlib.suppress(ConnectionError):
            while edge.open:
                client.send(b"x")
                time.sleep(0.02)
        wait_until(lambda: not edge.open)


def test_an_unwanted_body_is_read_up_to_a_limited_size() -> None:
    with running_edge(linger_s=60, linger_bytes=1_000_000) as edge, edge.connect() as client:
        client.send(post(bytes(10**8), "/early/TOO_LARGE")[:1000])
        assert client.answer().status == 413
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 50_000_000:
                client.send(bytes(100_000))
                sent += 100_000
        assert sent < 50_000_000
        wait_until(lambda: not edge.open)


def test_an_unwanted_body_is_read_at_a_limited_rate() -> None:
    with running_edge(linger_bytes_per_s=1_000_000) as edge, edge.connect() as client:
        client.send(post(bytes(10**8), "/early/TOO_LARGE")[:1000])
        assert client.answer().status == 413
        (connection,) = edge.open
        began = time.monotonic()
        client.socket.settimeout(0.5)
        with contextlib.suppress(TimeoutError):
            client.send(bytes(50_000_000))
        read = connection._limits.linger_bytes - connection._lingering.bytes_left
        assert read < 300_000 + 1_000_000 * (time.monotonic() - began)


def test_bytes_after_the_last_request_do_not_reset_its_response(shared_edge: Edge) -> None:
    """Bytes that were not read when the socket is closed reset the connection."""
    with shared_edge.connect() as client:
        client.send(post(b"last", "/echo", "Connection: close"), BODY)
        assert client.answer().body == b"last"
        assert client.is_closed()


@pytest.mark.parametrize("request_", [GET, post(b""), b"GET /echo HTTP/1.0\r\n\r\n", GET + GET])
def test_a_half_closed_client_gets_its_response(shared_edge: Edge, request_: bytes) -> None:
    with shared_edge.connect() as client:
        client.send(request_)
        client.end()
        for _ in range(request_.count(b"HTTP")):
            assert client.answer().status == 200
        assert client.is_closed()


def test_a_half_closed_client_gets_a_slow_response() -> None:
    with running_edge() as edge, edge.connect() as client:
        client.send(WAIT)
        edge.started.acquire()
        client.end()
        time.sleep(0.2)
        edge.release.set()
        answer = client.answer()
        assert (answer.status, answer.body) == (200, b"waited")
        assert client.is_closed()
        assert not edge.gone.is_set()


@pytest.mark.parametrize("bad", [b"NOT HTTP\r\n\r\n", CHUNKED + b"zz\r\n"])
def test_a_half_closed_client_without_a_request_is_closed(shared_edge: Edge, bad: bytes) -> None:
    with shared_edge.connect() as client:
        client.send(bad)
        client.end()
        assert client.answer().status == 400
        assert client.is_closed()


@pytest.mark.parametrize("ends", ["closes", "resets", "ends, then closes"])
@pytest.mark.parametrize("behind", [b"", 3 * GET, 5000 * GET, post(5 * BODY)])
def test_the_app_is_notified_when_a_client_has_gone(ends: str, behind: bytes) -> None:
    """Whatever it has sent behind its request: reading may be paused for that."""
    with running_edge() as edge, edge.connect() as client:
        client.send(WAIT)
        edge.started.acquire()
        client.socket.settimeout(0.3)
        with contextlib.suppress(TimeoutError):  # it is more than the kernels hold
            client.send(behind)
        leave(client, ends)
        assert edge.gone.wait(30)
        wait_until(lambda: not edge.open)


def leave(client: Client, how: str) -> None:
    if how == "resets":
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "ends, then closes":
        client.end()
        time.sleep(0.1)
    client.close()


def test_a_client_that_half_closes_within_its_body_is_closed(shared_edge: Edge) -> None:
    with shared_edge.connect() as client:
        client.send(post(b"hello")[:-1])
        client.end()
        assert client.is_closed()


KEY = "q7Zt4mXv9RkB2wLc8NpY"


def test_early_responses_of_the_service_can_be_read() -> None:
    app = create_app(Settings(models="/nowhere", api_keys=f"anna:{KEY}", max_body_bytes=2_000_000))
    key = f"Authorization: Bearer {KEY}"
    form = "Content-Type: multipart/form-data; boundary=b"
    expected_statuses = {
        ("/v1/classify", form): 401,
        ("/v1/models", key): 405,
        ("/nothing", key): 404,
        ("/v1/models/none/classify", key, form): 404,
        ("/v1/classify", key, form): 503,
        ("/healthz", key): 405,
    }
    with listening(app) as service:
        at = (service.base_url.host, service.base_url.port or 80)
        for (path, *lines), status in expected_statuses.items():
            with Client(at) as client:
                client.send(post(BODY, path, *lines))
                answer = client.answer()
            assert answer.headers["connection"] == "close", path
            assert answer.status == status, path
            assert answer.json()["id"] == answer.headers["x-request-id"]
        with Client(at) as client:
            client.send(b"NOT HTTP\r\n\r\n")
            answer = client.answer()
        assert (answer.status, answer.headers["x-content-type-options"]) == (400, "nosniff")
