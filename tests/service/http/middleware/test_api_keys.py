"""API keys: which routes need one, their limits, and requests with invalid ones."""

from __future__ import annotations

import json
import logging
import re
import socket
from typing import Any

import pytest
from fastapi import FastAPI, WebSocket
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.app import create_app
from service.settings import Settings
from tests.service.asgi import ask, open_socket
from tests.service.running_server import listening, wait_until

ANNA, BERT, ADMIN = (
    "anna-q7Zt4mXv9RkB2wLc8NpY",
    "bert-q7Zt4mXv9RkB2wLc8NpY",
    "root-q7Zt4mXv9RkB2wLc8NpY",
)
CLASSIFY = "/v1/classify"


def make_app(**settings: Any) -> FastAPI:
    """An app with a route for admins and a WebSocket, whose checkpoints are never loaded."""
    app = create_app(Settings(models="/nowhere", **settings))

    @app.get("/v1/admin/secrets")
    @app.get("/v1/admin", name="admin")
    async def secrets() -> str:
        return "for admins"

    @app.get("/metrics")
    async def metrics() -> str:
        return "counts"

    @app.websocket("/v1/echo")
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()

    return app


KEYED = make_app(api_keys=f"anna:{ANNA},bert:{BERT}", admin_key=ADMIN)


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", b"Bearer " + key.encode())]


@pytest.mark.parametrize(
    "path", ["/v1/models", CLASSIFY, "/v3/models", "/metrics", "/nowhere", "//healthz", "/healthz/",
             "/healthz\n", "/docs/../v1/models", "/docs/static", "/HEALTHZ", ""],
)  # fmt: skip
def test_without_a_key_nothing_is_answered_or_read(path: str) -> None:
    for headers in ([], bearer("nobody-q7Zt4mXv9RkB2wLc8NpY")):
        answer = ask(KEYED, path, headers, method="POST")
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.problem["type"] == "urn:scmrl:error:key-needed"
        assert "Authorization: Bearer" in answer.problem["detail"]
        assert not answer.read


@pytest.mark.parametrize(
    ("path", "status"),
    [("/healthz", 200), ("/readyz", 503), ("/docs", 200), ("/openapi.json", 200), ("/", 200),
     ("/docs/static/favicon.png", 200), ("/docs/static/../v1/models", 404)],
)  # fmt: skip
def test_health_checks_and_the_page_need_no_key(path: str, status: int) -> None:
    assert ask(KEYED, path).status == status


@pytest.mark.parametrize("key", [ANNA, BERT, ADMIN])
def test_with_a_key_every_route_answers(key: str) -> None:
    assert ask(KEYED, "/v1/models", bearer(key)).status == 200
    assert ask(KEYED, "/metrics", bearer(key)).status == 200
    assert ask(KEYED, "/nowhere", bearer(key)).status == 404
    assert ask(KEYED, "/v1/models", [(b"Authorization", f"bEARER   {key} ".encode())]).status == 200


def test_without_configured_keys_requests_need_none_and_keys_are_not_checked() -> None:
    assert ask(make_app(), "/v1/models").status == 200
    assert ask(make_app(), "/v1/models", bearer("nobody")).status == 200
    assert ask(make_app(admin_key=ADMIN), "/v1/models").status == 200


def test_admins_have_a_key_of_their_own() -> None:
    for path in ("/v1/admin/secrets", "/v1/admin", "/v1/admin/secrets\n", "/v1/admin\n"):
        assert ask(KEYED, path).status == 401
        assert ask(KEYED, path, bearer("nobody")).status == 401
        refused = ask(KEYED, path, bearer(ANNA))
        assert refused.status == 403
        assert refused.problem["type"] == "urn:scmrl:error:key-refused"
        assert "'anna'" in refused.problem["detail"]
        assert ask(KEYED, path, bearer(ADMIN)).body == b'"for admins"'
    assert ask(make_app(admin_key=ADMIN), "/v1/admin/secrets").status == 401


@pytest.mark.parametrize("keys", ["", f"anna:{ANNA}"])
def test_without_an_admin_key_there_is_nothing_to_administer(keys: str) -> None:
    app = make_app(api_keys=keys)
    for headers in ([], bearer(ANNA), bearer("nobody"), bearer("")):
        answer = ask(app, "/v1/admin/secrets", headers)
        assert answer.status == 404
        assert answer.problem["type"] == "urn:scmrl:error:not-found"
    nowhere = ask(app, "/nowhere", bearer(ANNA)).problem["detail"]
    assert answer.problem["detail"] == nowhere.replace("/nowhere", "/v1/admin/secrets")


def test_the_rules_hold_where_the_app_is_mounted_under_a_path() -> None:
    outer = FastAPI()
    outer.mount("/below", KEYED)
    for path, headers, status in (
        ("/below/v1/admin/secrets", bearer(ANNA), 403),
        ("/below/v1/admin/secrets", bearer(ADMIN), 200),
        ("/below/v1/models", [], 401),
        ("/below/healthz", [], 200),
    ):
        assert ask(outer, path, headers).status == status


def test_sockets_are_checked_as_they_are_opened() -> None:
    assert open_socket(KEYED, "/v1/echo", bearer(ANNA))[0]["type"] == "websocket.accept"
    refused = open_socket(KEYED, "/v1/echo")
    assert refused[0]["type"] == "websocket.http.response.start"
    assert refused[0]["status"] == 401
    assert json.loads(refused[1]["body"])["status"] == 401
    (closed,) = open_socket(KEYED, "/v1/echo", answers=False)
    assert (closed["type"], closed["code"]) == ("websocket.close", 1008)


def test_each_key_has_its_own_limit() -> None:
    app = make_app(api_keys=f"anna:{ANNA}:2,bert:{BERT}:0,c:{'C3' + BERT}", rate_limit_per_min=1)

    def statuses_of(key: str, path: str = "/v1/models") -> list[int]:
        return [ask(app, path, bearer(key)).status for _ in range(4)]

    assert statuses_of(ANNA) == [200, 200, 429, 429]
    assert statuses_of(BERT) == [200] * 4
    assert statuses_of("C3" + BERT) == [200, 429, 429, 429]
    refused = ask(app, CLASSIFY, bearer(ANNA), method="POST")
    assert refused.problem["type"] == "urn:scmrl:error:rate-limit"
    assert "2 requests per minute" in refused.problem["detail"]
    assert not refused.read
    assert 20 <= int(refused.headers["Retry-After"]) <= 30, "one comes back in 30 s"
    assert statuses_of(ANNA, "/healthz") == [200] * 4
    assert ask(app, "/v1/models").status == 401, "a request without a key counts for none"


RIGHT = re.compile(rb"bearer +(?:%b|%b|%b) *" % (ANNA.encode(), BERT.encode(), ADMIN.encode()))
PIECES = [b"Bearer", b"bearer", b"Basic", b" ", b"\t", b",", b"\0", b"\r\n", b"\xff", b"=",
          ANNA.encode(), BERT.encode(), ANNA[:-1].encode(), ANNA.upper().encode(),
          b"anna:"]  # fmt: skip
VALUES = st.binary(max_size=60) | st.lists(st.sampled_from(PIECES), max_size=6).map(b"".join)


@given(value=VALUES)
@example(b"Bearer " + ANNA.encode())
@example(b"Bearer " + ANNA.encode() + b"\n")
@example(b"Bearer\xa0" + ANNA.encode())
@example(ANNA.encode())
@settings(max_examples=300, derandomize=True)
def test_no_header_passes_without_a_right_key_and_none_is_a_500(value: bytes) -> None:
    is_right = RIGHT.fullmatch(value[:6].lower() + value[6:]) is not None
    answer = ask(KEYED, "/v1/models", [(b"authorization", value)])
    assert answer.status == (200 if is_right else 401)


@given(values=st.lists(VALUES | st.just(b"Bearer " + ANNA.encode()), min_size=2, max_size=4))
@settings(max_examples=50, derandomize=True)
def test_two_headers_are_not_a_key(values: list[bytes]) -> None:
    assert ask(KEYED, "/v1/models", [(b"authorization", v) for v in values]).status == 401


def test_the_log_names_the_key_and_never_has_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    app = make_app(api_keys=f"anna:{ANNA}:2", admin_key=ADMIN)

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("inside")

    wrong = "wrong-q7Zt4mXv9RkB2wLc8NpY"
    with listening(app) as client:
        for key, path, status, note in (
            (ANNA, "/v1/models", 200, "key='anna'"),
            (ANNA, "/broken", 500, "key='anna'"),
            (ANNA, "/v1/models", 429, "key='anna'"),
            (ANNA, "/v1/admin/x", 403, "key='anna'"),
            (ADMIN, "/v1/admin/x", 404, "key='admin'"),
            (wrong, "/v1/models", 401, "error='key-needed'"),
        ):
            answer = client.get(path, headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code == status
            assert note in line_of(caplog, answer.headers["X-Request-ID"])
            assert key not in answer.text
    assert "q7Zt4mXv9RkB2wLc8NpY" not in caplog.text


def line_of(caplog: pytest.LogCaptureFixture, request_id: str) -> str:
    """The request's line in the log, which comes after what went wrong and after the answer."""

    def lines() -> list[str]:
        return [text for text in caplog.messages if f"id={request_id} GET" in text]

    wait_until(lambda: bool(lines()))
    (line,) = lines()
    return line


def test_a_refusal_does_not_wait_for_the_upload() -> None:
    """No 100 Continue is sent, and of an announced gigabyte not a byte is waited for."""
    with listening(KEYED) as client:
        at = (client.base_url.host, client.base_url.port or 80)
        with socket.create_connection(at, timeout=30) as caller:
            caller.sendall(
                b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000\r\n\r\n"
            )
            assert caller.recv(1000).startswith(b"HTTP/1.1 401 ")


def test_the_description_asks_for_a_key_where_one_is_needed() -> None:
    described = json.loads(ask(KEYED, "/openapi.json").body)
    assert described["components"]["securitySchemes"] == {
        "key": {"type": "http", "scheme": "bearer"}
    }
    classify = described["paths"][CLASSIFY]["post"]
    assert classify["security"] == [{"key": []}]
    assert {"401", "429"} <= set(classify["responses"])
    assert {"401", "403"} <= set(described["paths"]["/v1/admin/secrets"]["get"]["responses"])
    assert "security" not in described["paths"]["/healthz"]["get"]
    infer = described["paths"]["/v2/models/{name}/infer"]["post"]
    assert infer["security"] == [{"key": []}]
    assert set(infer["responses"]["429"]["content"]) == {"application/json"}
    assert "security" not in described["paths"]["/v2/health/ready"]["get"]
    plain = json.loads(ask(make_app(), "/openapi.json").body)
    assert "security" not in plain["paths"][CLASSIFY]["post"]
    assert "/v1/admin/secrets" not in plain["paths"]
