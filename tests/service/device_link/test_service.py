"""`scmrl serve` on two devices: the networks are in two processes, and end with the service."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.bench.cpu_time import read_cpu_s
from tests.conftest import ROOT
from tests.service import checkpoints
from tests.service.process import Serve
from tests.service.processes.test_http_workers import content, has_torch, near
from tests.service.running_server import running, wait_until
from tests.service.scraped import scrape

pytestmark = pytest.mark.slow

ADMIN = "admin-q7Zt4mXv9RkB2wLc8NpY"
CLASSIFY = "/v1/classify"


@dataclass
class Service:
    """A service on two devices, and its folder of checkpoints."""

    serve: Serve
    folder: Path
    address: str

    @property
    def devices(self) -> list[int]:
        """The ids of the processes of its devices."""
        parent = self.serve.process.pid
        children: list[int] = []
        for task in Path(f"/proc/{parent}/task").iterdir():
            with suppress(FileNotFoundError):  # the thread has ended meanwhile
                children += map(int, (task / "children").read_text().split())
        return sorted(pid for pid in children if b"device_process" in command_of(pid))

    def client(self, key: str = "") -> httpx.Client:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.address, timeout=60, headers=headers)


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_service_on_two_devices_from_its_start_to_its_end(
    serve: type[Serve], tmp_path: Path, clip: bytes
) -> None:
    """One service for all of it, since its three processes import torch."""
    checkpoints.save(tmp_path / "avdigits")
    started = serve(
        "--models", tmp_path, "--port", 0, "--log-format", "json", "--compile", "off",
        module="tests.service.two_devices", SCMRL_ADMIN_KEY=ADMIN, SCMRL_HTTP_WORKERS="1",
    )  # fmt: skip
    two = Service(started, tmp_path, started.address())
    with running(two.folder, compile="off") as client:
        expected = near(content(client.post(CLASSIFY, files={"clip": clip}).json()))

    def ask(client: httpx.Client, path: str = CLASSIFY) -> Any:
        answer = client.post(path, files={"clip": clip})
        assert answer.status_code == 200, answer.text
        return content(answer.json())

    first = two.devices
    assert len(first) == 2
    with two.client() as client, two.client(ADMIN) as admin:
        assert ask(client) == expected
        (model,) = client.get("/v1/models").json()["models"]
        assert (model["device"], model["path"]) == ("cpu, cpu", "plain")
        text = client.get("/metrics").text
        assert 'scmrl_device_memory_bytes{device="cpu"}' in text
        assert 'scmrl_model_ready{model="avdigits"} 1.0' in text
        # Several clips at a time: both devices compute.
        used = [cpu_time(pid) for pid in first]
        with ThreadPoolExecutor(8) as threads:

            def both_compute() -> bool:
                assert list(threads.map(lambda _: ask(client), range(8))) == [expected] * 8
                return all(cpu_time(pid) > before for pid, before in zip(first, used, strict=True))

            wait_until(both_compute)
        engines_s = sum(map(engine_time, first)) / os.sysconf("SC_CLK_TCK")
        assert read_cpu_s(started.process.pid)["batch worker"] > 0.99 * engines_s > 0

        checkpoints.save(two.folder / "new", seed=5, name="new")
        assert admin.put("/v1/admin/models/new").status_code == 200
        of_new = ask(client, "/v1/models/new/classify")
        assert of_new["contributions"] != expected["contributions"]
        assert two.devices == first

        os.kill(first[0], signal.SIGKILL)
        wait_until(lambda: len(two.devices) == 2 and first[0] not in two.devices)
        wait_until(lambda: client.get("/readyz").status_code == 200)
        wait_until(lambda: scrape(client).total("scmrl_worker_restarts_total", kind="engine") == 2)
        assert first[1] in two.devices
        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(lambda _: ask(client), range(8))) == [expected] * 8
        assert ask(client, "/v1/models/new/classify") == near(of_new)
        assert admin.delete("/v1/admin/models/new").status_code == 204
        assert ask(client) == expected
    last = two.devices
    assert two.serve.stop() == 0, two.serve.logged
    assert not any(map(runs, [*first, *last]))
    lines = [json.loads(line) for line in two.serve.logged.splitlines()]
    *starts, lost, restart = (x["message"] for x in lines if x["logger"] == "scmrl.devices")
    assert len(starts) == 2
    assert f"({first[0]}) was ended by signal 9" in lost
    assert restart == f"process {(set(last) - {first[1]}).pop()} runs the networks on cpu"
    assert any("lost the process of its device" in line["message"] for line in lines)


PARENT = """
import time
from service.device_link.process import DeviceProcess, ProcessOptions
processes = [DeviceProcess("cpu", ProcessOptions(1, "info", "json")) for _ in range(2)]
print(*(process.pid for process in processes), flush=True)
time.sleep(600)
"""


def test_processes_of_devices_have_no_secrets_and_end_with_a_service_that_is_killed() -> None:
    """Even one that is stopped ends."""
    command = [sys.executable, "-c", PARENT]
    secrets = {"SCMRL_ADMIN_KEY": ADMIN, "OTEL_EXPORTER_OTLP_HEADERS": f"key={ADMIN}"}
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | secrets, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        devices = [int(pid) for pid in parent.stdout.readline().split()]
        wait_until(lambda: all(map(has_torch, devices)))
        environments = [Path(f"/proc/{pid}/environ").read_bytes() for pid in (parent.pid, *devices)]
        assert [ADMIN.encode() in each for each in environments] == [True, False, False]
        os.kill(devices[0], signal.SIGSTOP)
        parent.kill()
    assert len(devices) == 2
    wait_until(lambda: not any(map(runs, devices)))


def cpu_time(pid: int | str) -> int:
    """The CPU time of a process, or of a thread, in ticks."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[11:13]
    return int(user) + int(system)


def engine_time(pid: int) -> int:
    """The CPU time of the threads that run networks, in ticks."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    engines = [x.name for x in tasks if (x / "comm").read_text().strip() == "scmrl-engine"]
    return sum(cpu_time(f"{pid}/task/{thread}") for thread in engines)


def runs(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
