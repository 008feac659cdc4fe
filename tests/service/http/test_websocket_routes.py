"""A WebSocket route in the whole app: keys, limits, log, metrics and the service's end."""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from pydantic import SecretStr
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Response
from websockets.sync.client import ClientConnection, connect

from service.app import create_app
from service.http.state import record_of, state_of
from service.runtime.shutdown import Signals, Stopping, UvicornServer
from service.server.server import server_of
from service.settings import Settings
from tests.service.running_server import listening, serving, wait_until

ANNA, BERT = "anna-q7Zt4mXv9RkB2wLc8NpY", "bert-q7Zt4mXv9RkB2wLc8NpY"
WITHIN_S = 60.0

router = APIRouter()


@router.websocket("/v1/echo/{name}")
async def echo(websocket: WebSocket, name: str) -> None:
    """As a route under service/http/routes/ is: it holds a checkpoint for each message."""
    record_of(websocket).model = name
    await websocket.accept()
    while True:
        text = await websocket.receive_text()
        with state_of(websocket).in_flight.request(name):
            await websocket.send_text(text)


def echo_app(**settings: object) -> FastAPI:
    app = create_app(Settings(**settings))  # type: ignore[arg-type]
    app.include_router(router)
    return app


@pytest.fixture(scope="module")
def keyed(weights: Path) -> Iterator[httpx.Client]:
    """A client of a service with two keys, one of which may ask twice a minute."""
    keys = SecretStr(f"anna:{ANNA},bert:{BERT}:2")
    app = echo_app(
        models=weights, compile="off", api_keys=keys, cors_origins="https://friend.example"
    )
    with listening(app) as client:
        yield client


@contextmanager
def socket_of(
    client: httpx.Client,
    key: str | None = None,
    path: str = "/v1/echo/avdigits",
    origin: str | None = None,
) -> Iterator[ClientConnection]:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    address = f"ws://{client.base_url.host}:{client.base_url.port}{path}"
    if origin is not None:
        headers["Origin"] = origin
    with connect(address, additional_headers=headers, open_timeout=WITHIN_S) as socket:
        yield socket


def refusal(
    client: httpx.Client,
    key: str | None = None,
    path: str = "/v1/echo/avdigits",
    origin: str | None = None,
) -> Response:
    """The response in place of a WebSocket."""
    with pytest.raises(InvalidStatus) as caught, socket_of(client, key, path, origin):
        pass
    return caught.value.response


def problem(response: Response) -> dict[str, object]:
    return dict(json.loads(response.body))


def test_with_a_key_messages_come_back(keyed: httpx.Client) -> None:
    wait_until(lambda: keyed.get("/readyz").status_code == 200)
    with socket_of(keyed, ANNA) as socket:
        socket.send("hello")
        assert socket.recv(timeout=WITHIN_S) == "hello"


@pytest.mark.parametrize("key", [None, "cleo-q7Zt4mXv9RkB2wLc8NpY"])
def test_without_a_key_it_is_401_before_it_is_accepted(
    keyed: httpx.Client, key: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    response = refusal(keyed, key)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert problem(response)["type"] == "urn:scmrl:error:key-needed"
    assert problem(response)["id"] == response.headers["X-Request-ID"]
    assert "ERROR" not in caplog.text


def test_each_counts_for_the_limit_of_its_key(keyed: httpx.Client) -> None:
    for _ in range(2):
        with socket_of(keyed, BERT):
            pass
    response = refusal(keyed, BERT)
    assert response.status_code == 429
    assert 0 < int(response.headers["Retry-After"]) <= 60


def test_the_key_is_asked_for_before_a_handshake_is_looked_at_elsewhere(
    keyed: httpx.Client,
) -> None:
    """Where there is no WebSocket the offer is ignored, and the request is one as any other."""
    assert refusal(keyed, path="/v1/models").status_code == 401


def test_it_is_a_line_of_the_log_and_is_counted_but_not_timed(
    keyed: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with socket_of(keyed, ANNA):
        pass
    wait_until(lambda: "/v1/echo" in caplog.text)
    lines = [r.getMessage() for r in caplog.records if "/v1/echo" in r.getMessage()]
    assert len(lines) == 1
    assert "GET '/v1/echo/avdigits' 101" in lines[0]
    assert "key='anna'" in caplog.text
    assert ANNA not in caplog.text
    metrics = keyed.get("/metrics", headers={"Authorization": f"Bearer {ANNA}"}).text
    route = 'route="/v1/echo/{name}"'
    counted = [line for line in metrics.splitlines() if route in line]
    assert any(line.startswith("scmrl_requests_total") and '"101"' in line for line in counted)
    assert not any(
        line.startswith("scmrl_request_seconds") and 'model="avdigits"' in line for line in counted
    )


@pytest.mark.parametrize(
    ("path", "meant"), [("/v1/stream/", "did you mean /v1/stream? See"), ("/v1/nowhere", "see")]
)
def test_a_path_without_a_route_is_refused(keyed: httpx.Client, path: str, meant: str) -> None:
    response = refusal(keyed, ANNA, path)
    assert response.status_code == 404
    assert problem(response)["detail"] == f"No such path: {path}; {meant} /docs."


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_without_a_handshake_is_told_that_the_path_is_a_websocket(
    keyed: httpx.Client, method: str
) -> None:
    headers = {"Authorization": f"Bearer {ANNA}"}
    response = keyed.request(method, "/v1/stream", headers=headers)
    assert response.status_code == 404
    detail = response.json()["detail"]
    assert detail.startswith("/v1/stream is a WebSocket: open it as ws:// or wss://; a proxy")


@pytest.mark.parametrize(
    "origin", ["https://example.org", "null", "http://127.0.0.1", "http://127.0.0.1:1"]
)
def test_pages_of_other_origins_may_not_open_one(keyed: httpx.Client, origin: str) -> None:
    response = refusal(keyed, ANNA, origin=origin)
    assert response.status_code == 403
    assert problem(response)["type"] == "urn:scmrl:error:origin-refused"
    assert "SCMRL_CORS_ORIGINS" in str(problem(response)["detail"])


def test_pages_of_its_own_and_of_the_setting_may(keyed: httpx.Client) -> None:
    own = f"http://{keyed.base_url.host}:{keyed.base_url.port}"
    for origin in (own, "https://friend.example"):
        with socket_of(keyed, ANNA, origin=origin):
            pass


def test_while_the_service_drains_no_new_one_is_opened(weights: Path) -> None:
    app = echo_app(models=weights, compile="off")
    with listening(app) as client:
        wait_until(lambda: client.get("/readyz").status_code == 200)
        with socket_of(client) as socket:
            app.state.scmrl.in_flight.drain()
            response = refusal(client)
            assert response.status_code == 503
            assert response.headers["Retry-After"]
            assert problem(response)["type"] == "urn:scmrl:error:stopping"
            socket.send("hello")  # needs a checkpoint, which is a new request
            with pytest.raises(ConnectionClosed) as caught:
                socket.recv(timeout=WITHIN_S)
        assert caught.value.rcvd is not None
        assert caught.value.rcvd.code == 1012
        assert "shutting down" in caught.value.rcvd.reason


def test_sigterm_closes_those_that_are_open_and_ends_the_service(weights: Path) -> None:
    app = echo_app(models=weights, compile="off", shutdown_grace_s=20)
    server = server_of(app)
    state = app.state.scmrl
    stopping = Stopping(UvicornServer(server), state.in_flight, state.settings, Signals())
    with serving(app, server) as client, socket_of(client) as socket:
        wait_until(lambda: len(state.connections) == 1)
        threading.Thread(target=stopping.on_signal, args=(signal.SIGTERM, None)).start()
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(timeout=WITHIN_S)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1012
    assert caught.value.rcvd.reason == "The service is shutting down."
    assert len(state.connections) == 0


def test_without_a_websocket_route_the_offer_is_ignored(weights: Path) -> None:
    with listening(create_app(Settings(models=weights, compile="off"))) as client:
        assert refusal(client, path="/healthz").status_code == 200
        assert refusal(client).status_code == 404
