"""`scmrl ray` without a cluster: Ray on this machine alone, and its end."""

from __future__ import annotations

import functools
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.service.ray_serve.cluster import (
    NEEDS_RAY,
    PYTHON,
    WITHIN_S,
    are_answered,
    environment,
    free_port,
    http,
    long_call,
    wait_until,
)

pytestmark = NEEDS_RAY


@contextmanager
def served(models: Path, port: int, output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run `scmrl ray`; what it prints is in `output`."""
    command = [PYTHON.with_name("scmrl"), "ray", "--cpus=1", "--max-replicas=1"]
    # Ray's files, with sockets, whose paths have 107 bytes only: not in pytest's folders.
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        output.open("wb") as out,
    ):
        variables = environment(models, port) | {"RAY_TMPDIR": folder}
        # Where the tests run in the background, SIGINT is ignored, as it would be in it.
        heeds = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(command, env=variables, stdout=out, stderr=out, preexec_fn=heeds)
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
        with http(f"http://127.0.0.1:{port}") as client, long_call(client, clip) as call:
            process.send_signal(signal.SIGTERM)
            assert are_answered(call)
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


def test_a_port_that_is_taken_is_said(weights: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with served(weights, port, output) as process:
            assert process.wait(WITHIN_S) == 1, output.read_text()
    assert f"scmrl ray: Failed to bind to address '127.0.0.1:{port}'" in output.read_text()
