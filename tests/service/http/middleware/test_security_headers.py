"""Security headers of every response, and a page that works under its policy."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
from fastapi import FastAPI

from service.app import create_app
from service.settings import Settings
from tests.service.asgi import ask

ORIGIN = "https://app.example.org"


def app(**settings: object) -> FastAPI:
    application = create_app(Settings(models="/nowhere", **settings))  # type: ignore[arg-type]

    @application.get("/broken")
    async def broken() -> None:
        raise RuntimeError("inside")

    return application


@pytest.mark.parametrize(
    ("path", "status"),
    [("/healthz", 200), ("/v1/models", 200), ("/nowhere", 404), ("/readyz", 503), ("/broken", 500),
     ("/docs", 200), ("/", 200), ("/openapi.json", 200), ("/docs/static/swagger-ui.css", 200)],
)  # fmt: skip
def test_every_answer_has_them(path: str, status: int) -> None:
    answer = ask(app(), path)
    assert answer.status == status
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    kept = answer.headers.get("Cache-Control") != "no-store"
    assert kept == (path == "/" or path.startswith("/docs/static/")), "files alone may be kept"
    for name in ("Server", "X-Powered-By", "Access-Control-Allow-Origin"):
        assert name not in answer.headers


def test_a_refused_key_has_them_too() -> None:
    answer = ask(app(api_keys="anna:q7Zt4mXv9RkB2wLc8NpY"), "/v1/models")
    assert answer.status == 401
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_docs_run_their_own_script_and_no_other() -> None:
    answer = ask(app(), "/docs")
    page = answer.body.decode()
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert "SwaggerUIBundle(" in script
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = answer.headers["Content-Security-Policy"]
    (scripts,) = re.findall(r"script-src ([^;]*)", policy)
    assert scripts.split() == ["'self'", f"'sha256-{digest}'"]
    for needed in ("style-src 'self'", "img-src 'self' data:", "connect-src 'self'"):
        assert needed in policy


def preflight(application: FastAPI, origin: str) -> dict[str, str]:
    request_headers = (
        (b"origin", origin.encode()),
        (b"access-control-request-method", b"POST"),
        (b"access-control-request-headers", b"authorization"),
    )
    return dict(ask(application, "/v1/classify", request_headers, method="OPTIONS").headers)


def test_pages_of_other_origins_may_not_ask_unless_set() -> None:
    assert "access-control-allow-origin" not in preflight(app(), ORIGIN)
    keyed = app(cors_origins=f"{ORIGIN}, https://b.org:8443", api_keys="anna:q7Zt4mXv9RkB2wLc8NpY")
    for origin in (ORIGIN, "https://b.org:8443"):
        response_headers = preflight(keyed, origin)
        assert response_headers["access-control-allow-origin"] == origin, "a preflight needs no key"
        assert "POST" in response_headers["access-control-allow-methods"]
        assert "Authorization" in response_headers["access-control-allow-headers"]
    assert "access-control-allow-origin" not in preflight(keyed, "https://evil.example.org")
    refused = ask(keyed, "/v1/models", [(b"origin", ORIGIN.encode())])
    assert refused.status == 401
    assert refused.headers["Access-Control-Allow-Origin"] == ORIGIN, "a page may read its refusal"
    assert "Access-Control-Allow-Credentials" not in refused.headers
    assert preflight(app(cors_origins="*"), ORIGIN)["access-control-allow-origin"] == "*"
