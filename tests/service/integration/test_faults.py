"""The running service while parts of it fail: its responses, its log and its metrics."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.service.decoding.test_pool import children_of
from tests.service.process import Serve
from tests.service.running_server import statuses, wait_until
from tests.service.scraped import scrape

CLASSIFY = "/v1/classify"
RESTARTS = "scmrl_worker_restarts_total"


@dataclass
class Faulty:
    """A service of tests/service/faulty.py, and clients of it."""

    client: httpx.Client
    pool: ThreadPoolExecutor
    faults: Path
    clip: bytes
    process: Serve | None = None

    def fault(self, name: str, runs: int = 1) -> None:
        """Let so many runs of the network fail from now on."""
        beside = self.faults / f".{name}"
        beside.write_text(str(runs))
        beside.rename(self.faults / name)

    def hang(self, *ids: str, **form: str) -> list[Future[httpx.Response]]:
        """Ask, and wait until the network hangs at it."""
        self.fault("hang")
        futures = self.ask(*ids, **form)
        wait_until((self.faults / "hanging").exists)
        return futures

    def go_on(self) -> None:
        """End a hang."""
        (self.faults / "hang").unlink()
        (self.faults / "hanging").unlink(missing_ok=True)

    def ask(self, *ids: str, **form: str) -> list[Future[httpx.Response]]:
        """Ask with these ids, at once."""
        return [self.pool.submit(self.classify, name, **form) for name in ids]

    def classify(self, name: str, **form: str) -> httpx.Response:
        headers = {"X-Request-ID": name}
        return self.client.post(CLASSIFY, files={"clip": self.clip}, data=form, headers=headers)

    def total(self, name: str, **labels: str) -> float:
        return scrape(self.client).total(name, **labels)

    def until_queued(self, count: int) -> None:
        wait_until(lambda: self.total("scmrl_queue_length", model="avdigits") == count)

    def until_inside(self, count: int) -> None:
        wait_until(lambda: self.total("scmrl_requests_in_flight", model="avdigits") == count)

    @property
    def ready(self) -> bool:
        return self.client.get("/readyz").status_code == 200

    def why_not_ready(self, within_s: float) -> str:
        """Return the reason of /readyz; fail where it still answers 200 after `within_s`."""
        end = time.monotonic() + within_s
        while True:
            asked_at = time.monotonic()
            answer = self.client.get("/readyz")
            if answer.status_code == 503:
                return str(answer.json()["detail"])
            assert asked_at < end, "it says yes"
            time.sleep(0.05)

    @property
    def fork_server(self) -> int:
        """The process that decoding processes are forked from."""
        (pid,) = children_of(self.process.process.pid)
        return pid

    def lines(self, text: str) -> list[str]:
        """Lines of log with this text, of which there is one at least."""
        matching: list[str] = []

        def look() -> bool:
            matching[:] = [line for line in self.process.logged.splitlines() if text in line]
            return bool(matching)

        wait_until(look)
        return matching


def codes(futures: Sequence[Future[httpx.Response]]) -> list[int]:
    return [one.result().status_code for one in futures]


@pytest.fixture(scope="module")
def service(
    weights: Path, clip: bytes, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Faulty]:
    """One service for all faults that a service survives."""
    faults = tmp_path_factory.mktemp("faults")
    process = Serve(
        "--models", weights, "--port", 0, "--compile", "off", "--device", "cpu",
        "--decode-workers", 3, "--decode-timeout-s", 60, "--engine-timeout-s", 10,
        "--queue-length", 8, "--min-steps-under-load", 1, "--max-wait-s", 1000,
        module="tests.service.faulty", FAULTS=str(faults),
    )  # fmt: skip
    try:
        with (
            httpx.Client(base_url=process.address(), timeout=100) as client,
            ThreadPoolExecutor(16) as pool,
        ):
            wait_until(lambda: "loading" not in statuses(client).values())
            yield Faulty(client, pool, faults, clip, process)
            assert process.stop() == 0
    finally:
        process.process.kill()
        process.code()


@pytest.fixture(autouse=True)
def well_before_and_after(service: Faulty) -> Iterator[None]:
    wait_until(lambda: service.ready)
    yield
    for message in service.faults.iterdir():
        message.unlink()
    wait_until(lambda: service.ready)
    assert codes(service.ask("after")) == [200]
    service.until_inside(0)


def test_a_batch_that_fails_once_is_answered_one_by_one(service: Faulty) -> None:
    first = service.hang("before", degrade="false")
    batch = service.ask("one", "two", "three", degrade="false")
    service.until_queued(3)
    service.fault("fail")
    service.go_on()
    assert codes(first + batch) == [200] * 4
    assert [one.result().json()["batch_size"] for one in batch] == [1, 1, 1]
    (line,) = service.lines("a batch of 3 failed")
    assert all(name in line for name in ("injected", "one", "two", "three"))
    assert service.total("scmrl_engine_errors_total", kind="failed", model="avdigits") == 1


def test_a_lone_request_is_run_again_where_the_device_fails_once(service: Faulty) -> None:
    service.fault("fail")
    assert codes(service.ask("lone")) == [200]
    assert any("lone" in line for line in service.lines("injected failure"))


def test_out_of_memory_makes_batches_smaller(service: Faulty) -> None:
    first = service.hang("before-memory", degrade="false")
    batch = service.ask("m1", "m2", "m3", "m4", degrade="false")
    service.until_queued(4)
    before = service.total("scmrl_engine_errors_total", kind="out_of_memory")
    service.fault("out-of-memory")
    service.go_on()
    assert codes(first + batch) == [200] * 5
    assert [one.result().json()["batch_size"] for one in batch] == [4] * 4
    assert service.lines("out of memory: batches are limited to 2 samples")
    assert service.total("scmrl_engine_errors_total", kind="out_of_memory") == before + 1


def test_a_device_that_fails_at_everything_is_not_ready_until_it_answers_again(
    service: Faulty,
) -> None:
    restarts = service.total(RESTARTS, kind="engine")
    service.fault("fail", runs=1_000_000)
    while service.ready:
        assert set(codes(service.ask("luckless", "hapless"))) <= {500, 503}
    assert service.client.get("/healthz").status_code == 200
    time.sleep(1.5)
    assert not service.ready, "it said yes while the device still fails"
    (service.faults / "fail").unlink()
    wait_until(lambda: service.ready)
    assert service.total(RESTARTS, kind="engine") > restarts


def test_a_worker_that_dies_is_replaced(service: Faulty) -> None:
    restarts = service.total(RESTARTS, kind="engine")
    first = service.hang("before-death", degrade="false")
    batch = service.ask("dead1", "dead2", degrade="false")
    service.until_queued(2)
    service.fault("die")
    service.go_on()
    assert codes(first) == [200]
    assert codes(batch) == [503, 503]
    assert all(int(one.result().headers["Retry-After"]) >= 1 for one in batch)
    wait_until(lambda: service.total(RESTARTS, kind="engine") == restarts + 1)
    (line,) = [x for x in service.lines("the worker on cpu died") if "dead1" in x]
    assert "dead2" in line


def test_a_worker_that_hangs_is_reported_within_five_seconds_and_replaced(service: Faulty) -> None:
    restarts = service.total(RESTARTS, kind="engine")
    futures = service.hang("hung")
    queued = service.ask("behind")
    service.until_queued(1)
    assert "worker" in service.why_not_ready(within_s=5)
    assert service.client.get("/healthz").status_code == 200
    assert codes(futures) == [503]
    service.go_on()
    assert codes(queued) == [200]
    wait_until(lambda: service.total(RESTARTS, kind="engine") == restarts + 1)
    assert any(
        "hung" in line for line in service.lines("the worker on cpu has been running one batch")
    )


def test_time_steps_are_lowered_before_a_request_is_refused(service: Faulty) -> None:
    """Eight slots are taken one after the other, and none is released."""
    futures = service.hang("place1")
    for number in range(2, 9):
        form = {"degrade": "false"} if number == 8 else {}
        futures += service.ask(f"place{number}", **form)
        service.until_inside(number)
    refused = service.classify("place9")
    assert refused.status_code == 503
    assert refused.json()["type"] == "urn:scmrl:error:full"
    service.go_on()
    answers = [one.result().json() for one in futures]
    assert [answer["steps"] for answer in answers] == [4, 4, 4, 2, 2, 1, 1, 4]
    assert [answer["degraded"] for answer in answers] == [False] * 3 + [True] * 4 + [False]
    after = service.classify("later").json()
    assert (after["steps"], after["degraded"]) == (4, False)
    assert service.total("scmrl_degraded_total", model="avdigits") >= 4


@pytest.mark.parametrize("whom", ["a worker", "the workers", "the fork server"])
def test_decoding_processes_that_are_killed_cost_no_request(service: Faulty, whom: str) -> None:
    """Killed while they read; more wait for them than there are."""
    assert codes(service.ask("warm1", "warm2", "warm3")) == [200] * 3
    before = service.total(RESTARTS)
    fork_server = service.fork_server
    workers = children_of(fork_server)
    assert workers
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    service.fault("hang")  # so that all requests are in flight, whichever process reads them
    futures = service.ask(*(f"{whom[-6:].strip()}-{n}" for n in range(6)), degrade="false")
    service.until_inside(6)
    killed = {"a worker": workers[:1], "the workers": workers, "the fork server": [fork_server]}[
        whom
    ]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    for pid in set(workers) - set(killed) if whom == "a worker" else ():
        os.kill(pid, signal.SIGCONT)
    service.go_on()
    assert codes(futures) == [200] * 6
    assert service.total(RESTARTS) > before
    assert service.lines("is replaced")
    if whom == "the fork server":
        assert service.fork_server != fork_server
        assert service.total(RESTARTS, kind="fork_server") >= 1
        assert service.lines("the fork server (process")


def test_a_fork_server_that_is_killed_at_rest_costs_no_request(service: Faulty) -> None:
    """All that it forked die with it: no file is to blame for meeting two of them."""
    restarts = service.total(RESTARTS, kind="fork_server")

    def several_rest() -> bool:
        assert codes(service.ask("rest1", "rest2", "rest3")) == [200] * 3
        return len(children_of(service.fork_server)) >= 2

    wait_until(several_rest)
    os.kill(service.fork_server, signal.SIGKILL)
    assert codes(service.ask("next")) == [200]
    wait_until(lambda: service.total(RESTARTS, kind="fork_server") > restarts)


def test_a_fork_server_that_hangs_is_replaced(service: Faulty) -> None:
    restarts = service.total(RESTARTS, kind="fork_server")
    os.kill(service.fork_server, signal.SIGSTOP)
    # It is asked each second and has four to answer; on a machine that is busy, some more.
    assert "decoding process" in service.why_not_ready(within_s=20)
    # It may have been not ready, and ready again, for what the test before did.
    wait_until(lambda: service.total(RESTARTS, kind="fork_server") > restarts)
    wait_until(lambda: service.ready)
