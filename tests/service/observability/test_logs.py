"""Lines of log: the members of a request's, their format, and what none may have."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.app import create_app
from service.observability import logs
from service.observability.logs import Event
from service.request_record import request_id
from service.settings import Settings
from tests.service.engines import NumberEngine, ask, behind, started
from tests.service.process import Serve
from tests.service.running_server import listening, until_ready, wait_until

CLASSIFY = "/v1/classify"


class Lines(logging.Handler):
    """What one of our formatters writes, record by record, where it was logged."""

    def __init__(self, kind: logs.Format) -> None:
        super().__init__()
        self.setFormatter(logs.formatter(kind))
        self.written: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.written.append(self.format(record))

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.written]

    def of(self, id_: str, logger: str = "scmrl.access") -> dict[str, Any]:
        """The one object about a request, which is there when its answer has been sent."""

        def entries() -> list[dict[str, Any]]:
            return [x for x in self.objects if x.get("id") == id_ and x["logger"] == logger]

        wait_until(lambda: bool(entries()))
        (one,) = entries()
        return one


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Everything that is logged under `scmrl`, as it would be written in JSON."""
    handler, ours = Lines("json"), logging.getLogger("scmrl")
    level = ours.level
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    yield handler
    ours.removeHandler(handler)
    ours.setLevel(level)


def test_the_line_of_an_answer_has_what_it_took_as_members(
    service: httpx.Client, lines: Lines, clip: bytes
) -> None:
    answer = service.post(CLASSIFY, files={"clip": clip}, data={"steps": "2"}).json()
    line = lines.of(answer["id"])
    assert datetime.fromisoformat(line["time"]).utcoffset().total_seconds() == 0  # type: ignore[union-attr]
    assert (line["level"], line["message"].split()[0]) == ("info", "POST")
    assert (line["method"], line["path"], line["status"]) == ("POST", CLASSIFY, 200)
    assert (line["model"], line["steps"], line["batch"]) == ("avdigits", 2, 1)
    assert line["streams"] == "audio+visual"
    for stage in ("decode", "queue", "inference"):
        assert line[f"{stage}_ms"] == answer["timing_ms"][stage]
    assert line["duration_ms"] >= line["inference_ms"]
    assert not {"error", "detail", "exception"} & set(line)


def test_the_line_of_a_refusal_has_its_error(service: httpx.Client, lines: Lines) -> None:
    body = service.post(CLASSIFY, files={"clip": b"my secret " * 20}).json()
    line = lines.of(body["id"])
    assert (line["status"], line["error"], line["detail"]) == (
        415, "unknown-format", body["detail"],
    )  # fmt: skip
    assert line["model"] == "avdigits"


def test_uploads_headers_and_keys_are_in_no_line(
    service: httpx.Client, lines: Lines, clip: bytes
) -> None:
    headers = {"Authorization": "Bearer my-secret", "X-API-Key": "my-secret", "Cookie": "my-secret"}
    for content in (clip, b"my-secret " * 20):
        upload = {"clip": ("my-secret.mp4", content)}
        response = service.post(f"{CLASSIFY}?key=my-secret", files=upload, headers=headers)
        lines.of(response.headers["X-Request-ID"])
    assert "my-secret" not in "".join(lines.written)


@pytest.mark.slow
def test_what_the_threads_of_a_request_log_has_its_id(
    weights: Path, lines: Lines, clip: bytes
) -> None:
    """The thread that handles a request logs that its decoding process died."""
    app = create_app(Settings(models=weights, decode_workers=1, compile="off"))
    with listening(app) as client:
        until_ready(client)
        client.post(CLASSIFY, files={"clip": clip})
        (process,) = app.state.scmrl.decoders._processes.idle
        os.kill(process.pid, 9)
        answer = client.post(CLASSIFY, files={"clip": clip}).json()
    line = lines.of(answer["id"], "scmrl.decoding")
    assert line["level"] == "warning"
    assert str(process.pid) in line["message"]


def test_a_bug_is_one_line_with_its_traceback(lines: Lines) -> None:
    app = create_app(Settings(models="/nowhere"))

    @app.get("/broken")
    async def broken() -> None:
        raise RuntimeError("the inside")

    with listening(app) as client:
        id_ = client.get("/broken").headers["X-Request-ID"]
    wait_until(lambda: len([x for x in lines.objects if x.get("id") == id_]) == 2)
    bug = next(x for x in lines.objects if "exception" in x)
    assert (bug["level"], bug["message"], bug["id"]) == ("error", "unexpected error", id_)
    assert "RuntimeError: the inside" in bug["exception"]
    assert all("\n" not in line for line in lines.written)


def test_a_batch_that_fails_names_its_requests(lines: Lines) -> None:
    def before(numbers: tuple[int, ...]) -> None:
        if len(numbers) > 1:
            raise ValueError("too many")

    async def ask_as(id_: str) -> None:
        request_id.set(id_)  # of this task alone
        await ask(batcher, 1)

    async def both() -> None:
        blocker = await behind(engine, batcher)
        tasks = [asyncio.create_task(ask_as(id_)) for id_ in ("first", "second")]
        while batcher.queued < 2:
            await asyncio.sleep(0.01)
        engine.go.set()
        await asyncio.gather(blocker, *tasks)

    engine = NumberEngine(before)
    with started(engine) as batcher:
        asyncio.run(both())
    (line,) = [x for x in lines.objects if x["logger"] == "scmrl.batching"]
    assert "first, second" in line["message"]
    assert "too many" in line["message"]


def test_on_a_console_a_request_is_a_line_for_people() -> None:
    handler = Lines("console")
    log = logging.getLogger("scmrl.test_logs")
    log.addHandler(handler)
    fields = {"id": "a1", "status": 200, "model": "x y"}
    log.warning(Event("GET '/' 200", fields, {"model": "x y"}))
    token = request_id.set("b2")
    log.warning("while it %s", "works")
    log.warning(Event("GET '/' 200", fields))
    request_id.reset(token)
    log.warning("afterwards")
    log.removeHandler(handler)
    assert [line.split("scmrl.test_logs ")[1] for line in handler.written] == [
        "id=a1 GET '/' 200 model='x y'",
        "id=b2 while it works",
        "id=a1 GET '/' 200 status=200 model='x y'",
        "afterwards",
    ]


def test_in_json_each_line_that_the_service_writes_is_an_object(
    serve: type[Serve],
    weights: Path,
    clip: bytes,
) -> None:
    running = serve(
        "--models", weights, "--port", 0, "--log-format", "json", SCMRL_LOG_LEVEL="debug"
    )
    address = running.address()
    id_ = httpx.post(f"{address}{CLASSIFY}", files={"clip": clip}).json()["id"]
    port = httpx.URL(address).port
    with socket.create_connection(("127.0.0.1", port or 0)) as caller:
        caller.sendall(b"this is not HTTP\r\n\r\n")  # uvicorn warns of it
        caller.recv(1000)
    assert running.stop() == 0
    assert running.shown == "", "what is collected together with the log"
    objects = [json.loads(line) for line in running.logged.splitlines()]
    for line in objects:
        assert {"time", "level", "logger", "message"} <= set(line)
    assert [x["status"] for x in objects if x.get("id") == id_ and "status" in x] == [200]
    loggers = {line["logger"] for line in objects}
    assert {"scmrl.access", "scmrl.registry", "uvicorn.error"} <= loggers


@pytest.mark.parametrize(
    ("flags", "code", "why"),
    [
        (("--models", "/nowhere"), 1, "/nowhere"),
        (("--host", "0.0.0.0"), 2, "SCMRL_API_KEYS"),
        (("--host", "192.0.2.1", "--allow-anonymous"), 1, "cannot listen on 192.0.2.1"),
    ],
)
def test_a_failure_to_start_in_json_is_an_object_as_well(
    serve: type[Serve], flags: tuple[str, ...], code: int, why: str
) -> None:
    old = ("--shed-steps", 1)
    failed = serve(*flags, *old, "--port", 0, "--log-format", "json", SCMRL_MAX_BACTH="16")
    assert failed.code() == code
    objects = [json.loads(line) for line in failed.logged.splitlines()]
    assert any(x["level"] == "critical" and why in x["message"] for x in objects)
    for warning in ("did you mean SCMRL_MAX_BATCH?", "is now --min-steps-under-load"):
        assert any(warning in x["message"] for x in objects)


def test_warnings_and_the_death_of_a_thread_are_lines_of_log() -> None:
    program = """
import threading, warnings
from service.observability import logs
logs.configure("info", "json")
warnings.warn("outdated")
def die():
    raise ValueError("its last words")
thread = threading.Thread(target=die, name="worker")
thread.start()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    warned, died = map(json.loads, done.stderr.splitlines())
    assert "outdated" in warned["message"]
    assert (died["level"], died["message"]) == ("critical", "the thread worker died")
    assert "its last words" in died["exception"]


def test_a_stalled_reader_of_the_log_blocks_no_request() -> None:
    """As a program that reads the service's stderr from a pipe only after its end."""
    program = """
import logging, sys
from service.observability import logs
logs.configure("info", "console")
log = logging.getLogger("scmrl")
for number in range(5000):
    log.info("%s", f"{number} " + "x" * 100)
print(logs.lost(), flush=True)
sys.stdin.readline()
log.info("read again")
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], text=True, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout
        lost = int(process.stdout.readline())
        _, logged = process.communicate("go on\n", timeout=30)
    lines = logged.splitlines()
    assert lost > 0
    assert len(lines) in (5000 - lost, 5001 - lost)
    assert all(line.endswith("x" * 100) for line in lines[:-1])
