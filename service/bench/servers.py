"""Run the servers of the benchmarks as processes: ours, and LitServe with the same network."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from model.module_command import module_command
from service.bench.litserve_setup import LitServeSetup

#: Time limit for a server to become ready, in seconds.
_START_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Server:
    """The URL that clips are posted to, and the process id of the server."""

    url: str
    pid: int


@contextmanager
def run_scmrl(weights: Path, **settings: str) -> Iterator[Server]:
    """Run our service; the block starts once its fused network is ready."""
    port = _free_port()
    environment = {
        "SCMRL_MODELS": str(weights.resolve().parent),
        "SCMRL_DEFAULT_MODEL": weights.resolve().name,
        "SCMRL_PORT": str(port),
        "SCMRL_LOG_LEVEL": "warning",
        "SCMRL_COMPILE": "on",
        "SCMRL_API_KEYS": "",
        "SCMRL_API_KEYS_FILE": "",
    }
    command = module_command("service.cli", "serve")
    with _running(command, environment | settings, f"http://127.0.0.1:{port}/readyz") as pid:
        yield Server(f"http://127.0.0.1:{port}/v1/classify", pid)


@contextmanager
def run_litserve(
    weights: Path, max_batch: int, path: str, setup: LitServeSetup, device: str = "auto"
) -> Iterator[Server]:
    """Run LitServe with the same checkpoint; `path` is "plain" or "fused" (by our engine)."""
    port = _free_port()
    environment = {
        "BENCH_WEIGHTS": str(weights.resolve()),
        "BENCH_PATH": path,
        "BENCH_ACCELERATOR": device.partition(":")[0],
        "BENCH_WORKERS": str(setup.workers),
        "OMP_NUM_THREADS": str(setup.threads),
        "OPENBLAS_NUM_THREADS": str(setup.threads),
    }
    command = module_command("service.bench.litserve_app", port, max_batch)
    with _running(command, environment, f"http://127.0.0.1:{port}/health") as pid:
        yield Server(f"http://127.0.0.1:{port}/v1/classify", pid)


@contextmanager
def _running(command: list[str], environment: dict[str, str], ready_url: str) -> Iterator[int]:
    process = subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    try:
        end = time.monotonic() + _START_TIMEOUT_S
        while not _is_ready(ready_url):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{' '.join(command)} did not become ready")
            time.sleep(0.2)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with suppress(ProcessLookupError):  # LitServe leaves processes behind
            os.killpg(process.pid, signal.SIGKILL)


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
