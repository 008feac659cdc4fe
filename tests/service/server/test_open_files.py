"""Connections and the limit of open files."""

from __future__ import annotations

import contextlib
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.server.listener import connections_within_file_limit
from tests.conftest import ROOT
from tests.service.process import Serve
from tests.service.running_server import wait_until
from tests.service.scarce import FILES
from tests.service.server.edge import GET, WITHIN_S, Client

pytestmark = pytest.mark.slow


def test_open_files_are_reserved_for_decoders_and_libraries(
    monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    for limit, expected in ((1024, 884), (160, 20), (100, 16), (100_000, 4096)):
        monkeypatch.setattr(resource, "getrlimit", lambda kind, limit=limit: (limit, limit))
        assert connections_within_file_limit(4096, decode_workers=2) == expected
    assert log.text.count("`ulimit -n`") == 3
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: unlimited)
    assert connections_within_file_limit(4096, decode_workers=2) == 4096


@contextlib.contextmanager
def flood(address: tuple[str, int], count: int) -> Iterator[None]:
    """Open connections that say nothing."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            caller = stack.enter_context(socket.socket())
            caller.settimeout(WITHIN_S)
            with contextlib.suppress(ConnectionError):
                caller.connect(address)
        yield


def test_a_service_with_few_open_files_responds_beside_idle_connections(
    serve: type[Serve], weights: Path, clip: bytes
) -> None:
    service = serve("--models", weights, "--port", 0, module="tests.service.scarce")
    url = httpx.URL(service.address())
    with flood((str(url.host), url.port or 80), FILES + 100):
        for _ in range(3):
            assert httpx.get(url.join("/healthz"), timeout=WITHIN_S).status_code == 200
        answer = httpx.post(url.join("/v1/classify"), files={"clip": clip}, timeout=WITHIN_S)
        assert answer.status_code == 200
    assert service.stop() == 0
    assert f"the limit of open files is {FILES}" in service.logged, "the soft one was raised"
    assert "Traceback" not in service.logged


def test_a_server_that_runs_out_of_open_files_recovers() -> None:
    """As where something else has opened them: its limit of connections is no help."""
    command = [sys.executable, "-m", "tests.service.server.scarce", "60", "1000"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        address = ("127.0.0.1", int(process.stdout.readline()))
        with flood(address, 200), contextlib.suppress(ConnectionError, EOFError):
            assert ask(address) != 200, "there are no files"
        wait_until(lambda: answers(address))
        logged = process.communicate(timeout=WITHIN_S)[1]
    finally:
        process.kill()
        process.communicate()  # closes its pipes
    assert process.returncode == 0
    assert "`ulimit -n`" in logged
    assert "Traceback" not in logged
    assert len(logged.splitlines()) < 20


def ask(address: tuple[str, int]) -> int:
    with contextlib.closing(Client(address)) as client:
        client.send(GET)
        return client.answer().status


def answers(address: tuple[str, int]) -> bool:
    try:
        return ask(address) == 200
    except (ConnectionError, EOFError):
        return False
