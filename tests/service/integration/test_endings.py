"""Shutdown by a lost device or by SIGTERM under load, and a full disk, which is no reason."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT
from tests.service.integration.test_faults import Faulty, codes
from tests.service.media_files import tone, wav
from tests.service.process import WITHIN_S, Serve
from tests.service.running_server import statuses, wait_until

pytestmark = pytest.mark.slow


def loaded(client: httpx.Client) -> bool:
    """Whether there is a service that has loaded its checkpoints."""
    try:
        return "loading" not in statuses(client).values()
    except httpx.TransportError:
        return False


#: An upload whose client sends no more of it.
STALLED = (
    b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
)


def test_a_device_that_is_lost_ends_the_process_with_a_message(
    serve: type[Serve], weights: Path, clip: bytes, tmp_path: Path
) -> None:
    process = serve(
        "--models", weights, "--port", 0, "--compile", "off", "--device", "cpu",
        "--shutdown-grace-s", 1, module="tests.service.faulty", FAULTS=str(tmp_path),
    )  # fmt: skip
    address = process.address()
    endpoint = ("127.0.0.1", int(address.rpartition(":")[2]))
    with (
        httpx.Client(base_url=address, timeout=WITHIN_S) as client,
        ThreadPoolExecutor(4) as pool,
        socket.create_connection(endpoint, WITHIN_S) as stalled,
    ):
        wait_until(lambda: loaded(client))
        stalled.sendall(STALLED)
        service = Faulty(client, pool, tmp_path, clip)
        first = service.hang("before")
        batch = service.ask("one", "two", "three")
        service.until_queued(3)
        service.fault("lose", runs=1000)
        service.go_on()
        assert codes(first + batch) == [200, 503, 503, 503]
        assert all("Retry-After" in one.result().headers for one in batch)
        assert stalled.recv(1000).startswith(b"HTTP/1.1 503 "), "at the end of the grace period"
    assert process.code() == 1
    assert process.logged.count("CRITICAL") == 1
    last = process.logged.splitlines()[-1]
    assert last.startswith("scmrl serve: the device is lost: an injected CUDA error")
    assert "Traceback" not in process.logged


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_on_a_full_disk_it_answers_and_ends_in_order_under_load(
    weights: Path, clip: bytes, tmp_path: Path
) -> None:
    """Neither files nor stdout and stderr can be written to."""

    def no_bytes() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {"FAULTS": str(tmp_path), "TMPDIR": str(tmp_path / "nowhere")}
    environment.pop("PYTHONUNBUFFERED", None)
    command = [
        sys.executable, "-m", "tests.service.faulty", "serve", "--models", str(weights),
        "--port", str(port), "--compile", "off", "--device", "cpu", "--decode-workers", "2",
    ]  # fmt: skip
    with open("/dev/full", "w") as full:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=full, stderr=full, preexec_fn=no_bytes
        )
    address = f"http://127.0.0.1:{port}"
    try:
        with (
            httpx.Client(base_url=address, timeout=WITHIN_S) as client,
            ThreadPoolExecutor(8) as pool,
        ):
            wait_until(lambda: loaded(client) or process.poll() is not None)
            service = Faulty(client, pool, tmp_path, clip)
            sound = wav(tone(40.0))
            assert len(sound) > 1 << 21
            answer = client.post("/v1/classify", files={"video": clip, "audio": sound})
            assert answer.status_code == 200, answer.text
            assert service.ready
            assert service.total("scmrl_log_lines_lost_total") > 0

            inside = service.hang("running") + service.ask("q1", "q2", "q3", "q4")
            service.until_inside(5)
            process.send_signal(signal.SIGTERM)
            wait_until(lambda: not service.ready)
            late = service.classify("late")
            assert (late.status_code, late.json()["type"]) == (503, "urn:scmrl:error:stopping")
            assert late.headers["Connection"] == "close"
            service.go_on()
            assert codes(inside) == [200] * 5
        assert process.wait(WITHIN_S) == 0
    finally:
        process.kill()
        process.wait()
