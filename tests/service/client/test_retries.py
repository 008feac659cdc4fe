"""When the client sends a request again: against a server that answers what a test says."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from service.client import (
    AsyncClient,
    Client,
    ClientError,
    ModelSummary,
    PictureInput,
    Problem,
    ProblemError,
    Retries,
    UnreachableError,
)
from service.client.requests import problem_of, retry_after_s
from service.client.retries import ConnectionLostError

MODELS = {"models": [{"name": "one", "default": True, "status": "ready"}]}
QUICK = Retries(retries=2, max_wait_s=5, backoff_s=0.01)
#: Status, Retry-After and body of a response; None: the connection is closed without one.
Response = tuple[int, str | None, Any] | None
FULL: Response = (503, "0", {"type": "urn:scmrl:error:full", "status": 503, "detail": "Full."})


class Scripted:
    """Responds to its requests with `responses`, in turn."""

    def __init__(self, *responses: Response) -> None:
        self.requests: list[str] = []
        left = list(responses)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(handler) -> None:  # noqa: N805
                self.requests.append(handler.path)
                response = left.pop(0)
                if response is None:
                    handler.close_connection = True
                    return
                status, after, body = response
                data = json.dumps(body).encode() if body is not None else b"busy"
                handler.send_response(status)
                kind = "application/json" if status == 200 else "application/problem+json"
                handler.send_header("Content-Type", "text/plain" if body is None else kind)
                handler.send_header("Content-Length", str(len(data)))
                if after is not None:
                    handler.send_header("Retry-After", after)
                handler.close_connection = True
                handler.end_headers()
                handler.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def scripted() -> Iterator[Callable[..., Scripted]]:
    servers: list[Scripted] = []

    def start(*responses: Response) -> Scripted:
        servers.append(Scripted(*responses))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def models(url: str, retries: Retries) -> list[ModelSummary]:
    with Client(url, retries=retries) as client:
        return client.models()


def models_async(url: str, retries: Retries) -> list[ModelSummary]:
    async def ask() -> list[ModelSummary]:
        async with AsyncClient(url, retries=retries) as client:
            return await client.models()

    return asyncio.run(ask())


BOTH = pytest.mark.parametrize("ask", [models, models_async])
Ask = Callable[[str, Retries], list[ModelSummary]]


@BOTH
def test_a_refusal_with_retry_after_and_a_lost_connection_are_retried(
    ask: Ask, scripted: Callable[..., Scripted]
) -> None:
    server = scripted(FULL, None, (200, None, MODELS))
    assert ask(server.url, QUICK)[0].name == "one"
    assert server.requests == ["/v1/models"] * 3


@BOTH
def test_a_request_is_retried_where_a_proxy_lost_its_instance(
    ask: Ask, scripted: Callable[..., Scripted]
) -> None:
    server = scripted((500, None, None), (502, "0", None), (200, None, MODELS))
    assert ask(server.url, QUICK)[0].name == "one"
    assert server.requests == ["/v1/models"] * 3


@BOTH
def test_retries_are_bounded_and_the_last_error_is_raised(
    ask: Ask, scripted: Callable[..., Scripted]
) -> None:
    server = scripted((429, "0", None), FULL, FULL, (200, None, MODELS))
    with pytest.raises(ProblemError, match="503 full: Full") as caught:
        ask(server.url, QUICK)
    assert len(server.requests) == 3
    assert caught.value.retry_after_s == 0


@BOTH
@pytest.mark.parametrize(
    "response",
    [
        (503, None, {"type": "urn:scmrl:error:model-failed", "status": 503}),
        (503, "31", {"type": "urn:scmrl:error:full", "status": 503}),
        (422, "0", {"type": "urn:scmrl:error:unusable", "status": 422}),
        (504, None, None),
    ],
    ids=["no Retry-After", "longer than it may wait", "the request's fault", "a proxy's"],
)
def test_errors_that_no_retry_can_mend_are_raised_at_once(
    ask: Ask, response: Response, scripted: Callable[..., Scripted]
) -> None:
    server = scripted(response, (200, None, MODELS))
    with pytest.raises(ProblemError) as caught:
        ask(server.url, Retries(max_wait_s=30))
    assert response is not None
    assert caught.value.status == response[0]
    assert len(server.requests) == 1


def test_the_handshake_of_a_stream_is_retried(scripted: Callable[..., Scripted]) -> None:
    needed = (401, None, {"type": "urn:scmrl:error:key-needed", "status": 401})
    server = scripted(FULL, None, needed, FULL, needed)
    stream = Client(server.url, retries=QUICK).stream([PictureInput()])
    with pytest.raises(ProblemError, match="key-needed"), stream:
        pass
    assert server.requests == ["/v1/stream"] * 3

    async def open_stream() -> None:
        client = AsyncClient(server.url, retries=QUICK)
        async with client, client.stream([PictureInput()]):
            pass

    with pytest.raises(ProblemError, match="key-needed"):
        asyncio.run(open_stream())
    assert len(server.requests) == 5


@BOTH
def test_a_service_that_is_not_there_is_unreachable(
    ask: Ask, scripted: Callable[..., Scripted]
) -> None:
    server = scripted()
    server.close()
    with pytest.raises(UnreachableError, match="cannot be reached"):
        ask(server.url, QUICK)
    strange = scripted((200, None, {"cheese": 1}))
    with pytest.raises(UnreachableError, match="not that of an scmrl service"):
        ask(strange.url, QUICK)
    for other in ([1], {"name": 1}, "page"):
        with Client(scripted((200, None, other)).url, retries=QUICK) as client:
            if isinstance(other, dict):
                assert client.card("any") == other
            else:
                with pytest.raises(UnreachableError, match="not that of an scmrl service"):
                    client.card("any")


def test_a_redirect_is_an_error_that_says_where_to() -> None:
    error = problem_of(308, {"Location": "https://example.org/"}, b"")
    assert "status 308. It redirects to https://example.org/, which is not followed." in str(error)


def test_waits_grow_with_jitter_and_end_with_the_time_they_may_take() -> None:
    lost = ProblemError(Problem(status=503), retry_after_s=2.0)
    bounds = Retries(retries=10, max_wait_s=60, backoff_s=0.5, max_backoff_s=4)
    waits = {bounds.begin().wait_s(lost) for _ in range(20)}
    assert len(waits) > 1
    assert all(2.0 <= wait <= 2.5 for wait in waits)
    began = bounds.begin()
    began.began = time.monotonic() - 59
    with pytest.raises(ClientError):
        began.wait_s(lost)
    attempts, bound = bounds.begin(), 0.5
    for _ in range(10):
        assert 0 <= attempts.wait_s(ConnectionLostError("lost")) <= bound
        bound = min(2 * bound, 4)
    with pytest.raises(ConnectionLostError):
        attempts.wait_s(ConnectionLostError("lost"))
    often = Retries(retries=10_000, max_backoff_s=4).begin()
    often.failed = 5_000
    assert often.wait_s(ConnectionLostError("lost")) <= 4


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after_s("3") == 3
    date = retry_after_s(formatdate(time.time() + 100, usegmt=True))
    assert date is not None
    assert 90 < date <= 100
    assert retry_after_s(formatdate(0, usegmt=True)) == 0
    assert [retry_after_s(text) for text in (None, "soon", "nan", "")] == [None] * 4
