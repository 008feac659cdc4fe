"""No response discloses internals of the service, and no line of log has uploaded data."""

from __future__ import annotations

import logging
import platform
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI, WebSocket
from pydantic import SecretStr

from model.checkpoint import card
from service.app import create_app
from service.errors import Error
from service.settings import Settings
from tests.conftest import ROOT
from tests.service.asgi import ask
from tests.service.http.middleware.test_api_keys import ADMIN, ANNA, BERT, CLASSIFY
from tests.service.inference.test_loading import loads_of
from tests.service.inference.test_registry import damage
from tests.service.integration.test_refusals import raw_answer
from tests.service.media_files import png, tone, wav
from tests.service.running_server import listening, running, statuses, until_ready, wait_until

pytestmark = pytest.mark.slow

FORM = "multipart/form-data; boundary=b"

#: What no response may contain: paths of the code, and names and versions of dependencies.
INSIDE = re.compile(
    "|".join(
        (
            re.escape(str(ROOT)), "site-packages", "traceback", r'file "', r"\.py\b", r"\bline \d",
            "0x[0-9a-f]{6}", "starlette", "fastapi", "uvicorn", "pydantic", "torch", "numpy",
            "pyav", "ffmpeg", "libav", "opencv", "sndfile", "python", "/tmp/", "/nowhere/",
            *(re.escape(version(name)) for name in
              ("fastapi", "starlette", "uvicorn", "pydantic", "torch", "numpy", "av")),
            re.escape(platform.python_version()),
        )
    ),
    re.IGNORECASE,
)  # fmt: skip


def test_no_problem_discloses_internals(
    weights: Path,
    clip: bytes,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO, "scmrl")
    types: set[str] = set()
    broken = shutil.copytree(weights, tmp_path / "weights")
    damage(broken / "strict")
    for answers in (
        ordinary(broken, clip),
        late(weights, clip),
        of_heads(weights),
        load_that_hangs(weights, monkeypatch),
    ):
        for answer in answers:
            body = answer.json()
            assert answer.status_code >= 400, answer.text
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert not (leak := INSIDE.search(answer.text)), f"{leak}: {answer.text}"
            assert not {"x-powered-by"} & set(answer.headers)
            types.add(body["type"])
            wait_for_line(caplog, body["id"])
    assert types == {error.type for error in Error}, "an error was not driven"
    assert "a private diary" not in caplog.text


def wait_for_line(caplog: pytest.LogCaptureFixture, request_id: str) -> None:
    wait_until(lambda: request_id in caplog.text)


def ordinary(weights: Path, clip: bytes) -> Iterator[httpx.Response]:
    """Every error that does not need its service to be slow."""
    yield from not_loaded()
    with served(weights) as (app, client):
        client.headers["Authorization"] = f"Bearer {ANNA}"
        yield client.get("/v1/models", headers={"Authorization": "Bearer x"})
        yield client.get("/v1/admin/x")
        client.get("/v1/models", headers={"Authorization": f"Bearer {BERT}"})
        yield client.get("/v1/models", headers={"Authorization": f"Bearer {BERT}"})
        for path in ("/nowhere", "/docs/static/x", "/docs/static/%2e%2e/x", "/v1/models/nobody",
                     "/v1/models/strict", "/broken", "/v1/models/%00", "/a%0Ab"):  # fmt: skip
            yield client.get(path)
        yield client.delete("/v1/models")
        yield client.post("/docs/static/favicon.png")
        yield from of_forms(client)
        for field, content in (
            ("clip", b"a private diary " * 99), ("clip", clip[:300]), ("clip", b""),
            ("clip", clip[: len(clip) // 2]), ("clip", b"\x1a\x45\xdf\xa3" + bytes(500)),
            ("audio", wav(tone(0.5))[:50]), ("audio", b"RIFF\xff\xff\xff\x7fWAVEfmt "),
            ("audio", b"fLaC" + bytes(99)), ("frames", b"\x89PNG\r\n\x1a\n" + bytes(99)),
            ("frames", b"\xff\xd8\xff\xe0" + bytes(99)), ("video", wav(tone(0.5))),
            ("audio", png(np.zeros((1, 1, 3), np.uint8))), ("clip", bytes(3_000_000)),
        ):  # fmt: skip
            answer = client.post(CLASSIFY, files={field: ("diary.mp4", content)})
            if answer.status_code != 200:  # half a clip may be read
                yield answer
        registry = app.state.scmrl.registry
        with registry.get("avdigits").batcher.slot():
            yield client.post(CLASSIFY, files={"clip": clip})
        yield refused_websocket(app, client)
        operator = {"Authorization": f"Bearer {ADMIN}"}
        yield client.delete("/v1/admin/models/avdigits", headers=operator)
        for name in ("strict", "nobody"):
            yield client.put(f"/v1/admin/models/{name}", headers=operator)
        app.state.scmrl.in_flight.drain()
        yield client.post(CLASSIFY, files={"clip": clip})


def refused_websocket(app: FastAPI, client: httpx.Client) -> httpx.Response:
    """The response to a handshake, in place of the WebSocket."""

    async def accept(websocket: WebSocket) -> None:
        await websocket.accept()

    app.add_api_websocket_route("/v1/socket", accept)
    handshake = {
        "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }  # fmt: skip
    return client.get("/v1/socket", headers=handshake | {"Origin": "https://example.org"})


def of_forms(client: httpx.Client) -> Iterator[httpx.Response]:
    for content, content_type in (
        (b"{}", "application/json"),
        (b"", FORM),
        (b"--b\r\n\xff\xfe\0: \r\n\r\n", FORM),
        (b"--b\r\nContent-Disposition: form-data\r\n\r\n1\r\n--b--", FORM),
        (b"--c\r\n", FORM),
        (b"", "multipart/form-data; boundary=" + "b" * 300),
        (b"--b\r\n" + b"X: 1\r\n" * 50 + b"\r\n1\r\n--b--", FORM),
    ):
        yield client.post(CLASSIFY, content=content, headers={"Content-Type": content_type})
    gzipped = {"Content-Type": FORM, "Content-Encoding": "gzip"}
    yield client.post(CLASSIFY, content=b"\x1f\x8b", headers=gzipped)
    for data in ({"steps": "0"}, {"top_k": "x"}, {"attention": "?"}, {"unknown": "1"}):
        yield client.post(CLASSIFY, data=data, files={"clip": b"x"})


def not_loaded() -> Iterator[httpx.Response]:
    app = create_app(Settings(models="/nowhere"))
    for path in ("/readyz", "/v1/models/avdigits"):
        answer = ask(app, path)
        yield httpx.Response(answer.status, headers=answer.headers.raw, content=answer.body)


def late(weights: Path, clip: bytes) -> Iterator[httpx.Response]:
    for slow in ({"request_deadline_s": 0.001}, {"decode_timeout_s": 0.001}):
        with running(weights, compile="off", **slow) as client:
            yield client.post(CLASSIFY, files={"clip": clip})
    app = create_app(Settings(models=weights, compile="off", upload_timeout_s=0.001))
    with listening(app) as client:
        until_ready(client)
        yield client.post(CLASSIFY, content=dawdling(), headers={"Content-Type": FORM})


def of_heads(weights: Path) -> Iterator[httpx.Response]:
    """Errors of requests whose head is slow, too large or no HTTP."""
    app = create_app(Settings(models=weights, compile="off", head_timeout_s=0.1))
    with listening(app) as client:
        for head in (
            b"GET / HTTP/1.1\r\nHost: a\r\n",  # and no more
            b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a private diary\r\n" * 200,
            b"a private diary\r\n\r\n",
            b"GET / HTTP/1.1\r\na private diary\r\n\r\n",
        ):
            yield raw_answer(client, head)


def load_that_hangs(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Response]:
    """A load of a checkpoint whose disk does not answer."""
    read, go_on = card.read_regular, threading.Event()

    def hang(file: Path, max_bytes: int) -> bytes:
        go_on.wait()
        return read(file, max_bytes)

    settings = Settings(models=weights, compile="off", admin_key=SecretStr(ADMIN))
    app = create_app(settings)
    with listening(app) as client:
        until_ready(client)
        try:
            monkeypatch.setattr(card, "read_regular", hang)
            loads_of(app).limit_s = 0.2
            operator = {"Authorization": f"Bearer {ADMIN}"}
            yield client.put("/v1/admin/models/avdigits", headers=operator)
        finally:
            go_on.set()
            monkeypatch.undo()


def dawdling() -> Iterator[bytes]:
    yield b"--b\r\n"
    time.sleep(0.2)


@contextmanager
def served(weights: Path) -> Iterator[tuple[FastAPI, httpx.Client]]:
    """A running service with keys, one damaged checkpoint, one place and a route that fails."""
    app = create_app(
        Settings(
            models=weights, api_keys=f"anna:{ANNA},bert:{BERT}:1", admin_key=ADMIN,
            queue_length=1, max_file_bytes=2_000_000, compile="off",
        )
    )  # fmt: skip

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError(f"{ROOT}/service/app.py, line 1, in fastapi {version('fastapi')}")

    with listening(app) as client:
        until_ready(client)
        client.headers["Authorization"] = f"Bearer {ANNA}"
        wait_until(lambda: statuses(client)["strict"] == "failed")
        del client.headers["Authorization"]
        yield app, client
