"""Two nodes of Ray on this machine, and the service on them.

Ray is in an environment of its own, whose Python is RAY_PYTHON.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT
from tests.service.scraped import scrape

PYTHON = Path(os.environ.get("RAY_PYTHON", ROOT / ".ray" / "bin" / "python"))
COMMAND = "python -m venv .ray && .ray/bin/pip install -e '.[ray]' -c requirements.lock"
#: Marks of tests that need Ray.
NEEDS_RAY = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not PYTHON.with_name("ray").exists(), reason=f"needs Ray in .ray, or RAY_PYTHON: {COMMAND}"
    ),
]
KEY = "correct-horse-17-battery"
#: Clips of a call that takes seconds.
CALL = 16
#: Addresses of the nodes, as two machines have. Ray would replace 127.0.0.1 by an address of this
#: machine that others could reach.
HEAD, WORKER = "127.0.0.2", "127.0.0.3"
#: What `ray start` prints when its node has joined the cluster.
_STARTED = b"Ray runtime started"
#: Seconds within which Ray, or a replica, must get ready on a busy machine.
WITHIN_S = 300


class Cluster:
    """A head node and a worker node, each of `cpus` CPUs for replicas, which have one each."""

    def __init__(self, folder: Path, models: Path, cpus: int) -> None:
        self._folder = folder
        self._cpus = cpus
        self._nodes: list[subprocess.Popen[bytes]] = []
        self._gcs = free_port()
        self.port = free_port()
        # Two proxies on one machine: clients know that of the head.
        other = {"RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(free_port())}
        self._environment = environment(models, self.port) | other

    def start(self) -> None:
        """Start both nodes."""
        temporary = f"--temp-dir={self._folder / 'ray'}"
        ports = (f"--port={self._gcs}", f"--ray-client-server-port={free_port()}")
        self._start(HEAD, "--head", *ports, temporary, "--include-dashboard=false")
        self._start(WORKER, f"--address={self.address}")

    @property
    def address(self) -> str:
        """What joins this cluster."""
        return f"{HEAD}:{self._gcs}"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def deploy(self, settings: dict[str, str] | None = None, **options: object) -> None:
        """Run `scmrl ray` with these options and further variables."""
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        completed = self.run("--cpus=1", *flags, settings=settings)
        assert completed.returncode == 0, completed.stdout + completed.stderr
        assert f"ready on port {self.port}" in completed.stdout

    def run(
        self, *options: str, settings: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `scmrl ray` on this cluster."""
        command = [PYTHON.with_name("scmrl"), "ray", f"--address={self.address}", *options]
        return subprocess.run(
            command, env=self._environment | (settings or {}),
            capture_output=True, text=True, timeout=WITHIN_S, check=False,
        )  # fmt: skip

    def replicas(self) -> list[int]:
        """Return how many replicas are on the head and the worker, with those that are starting."""
        return [sum(map(is_replica, descendants(node.pid))) for node in self._nodes]

    def kill_replicas(self) -> None:
        """End the processes of all replicas, as the kernel does where memory is short."""
        for node in self._nodes:
            for pid in filter(is_replica, descendants(node.pid)):
                os.kill(pid, signal.SIGKILL)

    def kill_worker(self) -> None:
        """End all processes of the worker node at once, as a loss of power does."""
        kill(self._nodes[1])

    def stop(self) -> None:
        for node in reversed(self._nodes):
            kill(node)

    def _start(self, address: str, *options: str) -> None:
        """Start a node, and wait until it has joined: before, no driver could find it."""
        # With ports of their own, the agents may take their time to start.
        names = ("dashboard-agent-grpc", "metrics-export", "dashboard-agent-listen")
        ports = [f"--{name}-port={free_port()}" for name in (*names, "runtime-env-agent")]
        command = [
            PYTHON.with_name("ray"), "start", "--block", f"--node-ip-address={address}",
            f"--num-cpus={self._cpus}", "--object-store-memory=100000000", "--disable-usage-stats",
            *ports, *options,
        ]  # fmt: skip
        log = self._folder / f"{address}.log"
        with log.open("wb") as out:
            node = subprocess.Popen(
                list(map(str, command)), env=self._environment, stdout=out, stderr=out
            )

        self._nodes.append(node)

        def has_joined() -> bool:
            assert node.poll() is None, log.read_text()
            return _STARTED in log.read_bytes()

        wait_until(has_joined, f"the node {address} joins")


def environment(models: Path, port: int) -> dict[str, str]:
    """Return the variables of Ray and of the service on a busy machine."""
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "disabled",  # on loopback, and so that no token is written to a home
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_raylet_start_wait_time_s": str(WITHIN_S),
        "RAY_gcs_server_port_wait_time_s": str(WITHIN_S),
        "RAY_agent_register_timeout_ms": str(1000 * WITHIN_S),
        "SCMRL_API_KEYS": f"anna:{KEY}",
        "SCMRL_ALLOW_WEAK_KEYS": "true",
        "SCMRL_COMPILE": "off",
        "SCMRL_MODELS": str(models),
        "SCMRL_PORT": str(port),
    }


@contextmanager
def long_call(client: httpx.Client, clip: bytes) -> Iterator[Future[httpx.Response]]:
    """A call that takes seconds, which is being answered by the only replica."""
    files = [("clip", clip)] * CALL
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.post, "/v1/classify/batch", files=files)
        wait_until(lambda: scrape(client).total("scmrl_requests_in_flight") > 0, "it runs")
        yield call


def are_answered(call: Future[httpx.Response]) -> bool:
    """Return whether all clips of such a call are answered."""
    results = call.result().json()["results"]
    return len(results) == CALL and all("answer" in each for each in results)


@contextmanager
def running_cluster(models: Path, cpus: int) -> Iterator[Cluster]:
    """A cluster for some tests."""
    # Sockets' paths have 107 bytes only, which pytest's folders may exceed.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        cluster = Cluster(Path(folder), models, cpus)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def http(url: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {KEY}"}
    return httpx.Client(base_url=url, headers=headers, timeout=WITHIN_S)


def descendants(pid: int) -> list[int]:
    """Return a process and all that it has started, also what these have started."""
    parents: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(status.parent.name))
    pids, todo = [], [pid]
    while todo:
        pids.append(todo.pop())
        todo += parents.get(pids[-1], [])
    return pids


def is_replica(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().startswith("ray::ServeReplica")
    return False


def kill(node: subprocess.Popen[bytes]) -> None:
    if node.poll() is None:
        for pid in descendants(node.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def wait_until(happened: Callable[[], bool], what: str = "") -> None:
    """Wait until `happened()`, up to the time limit."""
    end = time.monotonic() + WITHIN_S
    while not happened():
        assert time.monotonic() < end, f"it did not happen: {what}"
        time.sleep(0.1)
