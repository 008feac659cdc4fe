"""`scmrl ray` without a cluster: Ray on this machine alone, and its end."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.service.ray_serve.cluster import (
    NEEDS_RAY,
    PYTHON,
    WITHIN_S,
    environment,
    free_port,
    http,
    wait_until,
)
from tests.service.scraped import scrape

pytestmark = NEEDS_RAY

#: Clips of a call that takes seconds.
CALL = 16


@contextmanager
def served(models: Path, port: int, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `scmrl ray`; what it prints is in `output`."""
    command = [PYTHON.with_name("scmrl"), "ray", "--cpus=1", "--max-replicas=1"]
    with output.open("wb") as out:
        process = subprocess.Popen(command, env=environment(models, port), stdout=out, stderr=out)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def wait_for(text: str, output: Path, process: subprocess.Popen[bytes]) -> None:
    def printed() -> bool:
        assert process.poll() is None, output.read_text()
        return text in output.read_text()

    wait_until(printed, text)


def test_a_signal_ends_it_once_requests_are_answered(
    weights: Path, clip: bytes, tmp_path: Path
) -> None:
    port, output = free_port(), tmp_path / "output"
    with served(weights, port, output) as process:
        wait_for("scmrl is ready on", output, process)
        with http(f"http://127.0.0.1:{port}") as client, ThreadPoolExecutor(1) as pool:
            files = [("clip", clip)] * CALL
            call = pool.submit(client.post, "/v1/classify/batch", files=files)
            wait_until(lambda: scrape(client).total("scmrl_requests_in_flight") > 0, "it runs")
            process.send_signal(signal.SIGTERM)
            assert [bool(each.get("answer")) for each in call.result().json()["results"]] == (
                [True] * CALL
            )
        assert process.wait(WITHIN_S) == 0, output.read_text()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_its_replica_starts_ends_it(
    sent: signal.Signals, weights: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    with served(weights, free_port(), output) as process:
        wait_for("Started Serve in namespace", output, process)
        process.send_signal(sent)
        assert process.wait(WITHIN_S) == 0, output.read_text()
    assert "received at time" not in output.read_text(), "the dump of Ray"
