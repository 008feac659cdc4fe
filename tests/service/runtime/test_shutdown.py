"""Signals, from the first moment of a process to its end, and the exit codes that follow."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from service.runtime.shutdown import UNANSWERED
from tests.conftest import ROOT
from tests.service.http.routes.test_admin import KEY, MODELS
from tests.service.process import WITHIN_S, Serve
from tests.service.running_server import statuses, wait_until

#: A grace that no test waits for.
LONG = ("--shutdown-grace-s", 3000)


def test_the_handlers_come_from_the_standard_library_alone() -> None:
    """Else the time without them would be that of an import."""
    listed = (
        "import sys; before = set(sys.modules); import service.cli; "
        "print(*sys.modules.keys() - before)"
    )
    output = subprocess.run(
        [sys.executable, "-c", listed], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert {name.split(".")[0] for name in output.split()} - sys.stdlib_module_names == {"service"}


def test_a_hangup_before_anything_is_imported_does_not_end_it(
    serve: type[Serve], weights: Path
) -> None:
    service = serve(
        "--models", weights, "--port", 0, module="tests.service.early", EARLY="SIGHUP,SIGHUP"
    )
    assert httpx.get(f"{service.address()}/readyz").status_code == 200
    assert "alive" in service.shown
    assert service.stop() == 0


@pytest.mark.parametrize("sent", ["SIGTERM", "SIGINT", "SIGINT,SIGINT", "SIGTERM,SIGINT"])
def test_a_signal_before_anything_is_imported_ends_it(serve: type[Serve], sent: str) -> None:
    service = serve(module="tests.service.early", EARLY=sent)
    assert service.code() == 0
    assert "alive" not in service.shown
    assert "Traceback" not in service.logged


@contextmanager
def half_an_upload(url: httpx.URL) -> Iterator[socket.socket]:
    """A connection with a request that has been accepted and whose body never ends."""
    with socket.create_connection((str(url.host), url.port or 80), timeout=WITHIN_S) as caller:
        caller.sendall(
            b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\nExpect: 100-continue\r\n\r\n"
        )
        assert b"100 Continue" in caller.recv(1000), "the request is in"
        yield caller


def test_requests_without_an_answer_at_the_end_of_the_grace_are_in_the_exit_code(
    serve: type[Serve], weights: Path
) -> None:
    service = serve("--models", weights, "--port", 0, "--shutdown-grace-s", 1)
    with half_an_upload(httpx.URL(service.address())) as caller:
        assert service.stop() == UNANSWERED
        assert caller.recv(1000).startswith(b"HTTP/1.1 503")


def test_a_second_signal_leaves_requests_and_says_so_in_the_exit_code(
    serve: type[Serve], weights: Path
) -> None:
    service = serve("--models", weights, "--port", 0, *LONG)
    url = httpx.URL(service.address())
    with half_an_upload(url):
        service.process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(url.join("/readyz")).status_code == 503)
        time.sleep(0.1)  # two signals within 20 ms count as one
        assert service.stop(signal.SIGINT) == UNANSWERED


def test_a_second_signal_without_requests_inside_leaves_none(
    serve: type[Serve], weights: Path
) -> None:
    service = serve("--models", weights, "--port", 0, *LONG, "--shutdown-delay-s", 3000)
    url = httpx.URL(service.address())
    service.process.send_signal(signal.SIGTERM)
    wait_until(lambda: httpx.get(url.join("/readyz")).status_code == 503)
    time.sleep(0.1)
    assert service.stop() == 0


def test_a_load_that_hangs_does_not_keep_it_from_ending(serve: type[Serve], weights: Path) -> None:
    service = serve(
        "--models", weights, "--port", 0, *LONG, "--load-timeout-s", 3000,
        module="tests.service.hanging", HANGS="strict", SCMRL_ADMIN_KEY=KEY,
    )  # fmt: skip
    headers = {"Authorization": f"Bearer {KEY}"}
    with (
        httpx.Client(base_url=service.address(), headers=headers, timeout=WITHIN_S) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        wait_until(lambda: statuses(client)["strict"] == "ready")
        hanging = pool.submit(load_again, client, "strict")
        wait_until(lambda: "hangs" in service.shown)
        assert client.get("/readyz").status_code == 200
        assert service.stop() == 0
        assert hanging.result().json()["type"] == "urn:scmrl:error:stopping"


def load_again(client: httpx.Client, name: str) -> httpx.Response:
    """The answer once the load of the start has ended: a checkpoint is served before it is
    compiled."""
    while (answer := client.put(f"{MODELS}/{name}")).status_code == 409:
        time.sleep(0.1)
    return answer


def test_a_default_checkpoint_that_hangs_ends_the_start_and_readyz_says_why_until_then(
    serve: type[Serve], weights: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    service = serve(
        "--models", weights, "--port", port, "--load-timeout-s", 6,
        module="tests.service.hanging", HANGS="avdigits",
    )  # fmt: skip
    wait_until(lambda: "hangs" in service.shown)
    answer = httpx.get(f"http://127.0.0.1:{port}/readyz")
    assert answer.status_code == 503
    assert "avdigits is being loaded: for " in answer.json()["detail"]
    assert "at most 6 s" in answer.json()["detail"]
    assert service.code() == 1
    last = service.logged.splitlines()[-1]
    assert last.startswith("scmrl serve: cannot serve the checkpoint avdigits: loading took")
    assert last.endswith("(SCMRL_LOAD_TIMEOUT_S, --load-timeout-s)")
    assert "Traceback" not in service.logged


def test_it_can_be_stopped_while_the_default_checkpoint_hangs(
    serve: type[Serve], weights: Path
) -> None:
    service = serve(
        "--models", weights, "--port", 0, *LONG, "--load-timeout-s", 3000,
        module="tests.service.hanging", HANGS="avdigits",
    )  # fmt: skip
    wait_until(lambda: "hangs" in service.shown)
    assert service.stop() == 0
    assert "Traceback" not in service.logged
