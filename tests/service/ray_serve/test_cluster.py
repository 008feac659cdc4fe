"""The service on two nodes of a real Ray, under load: a node that is killed, and scaling.

Ray is in an environment of its own, which `COMMAND` of cluster.py makes; without it these tests
are skipped.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from service.client import (
    Answer,
    AsyncClient,
    Client,
    PictureInput,
    ProblemError,
    Retries,
    Stream,
    StreamClosedError,
)
from tests.service.conftest import CLIPS
from tests.service.ray_serve.cluster import (
    CALL,
    HEAD,
    KEY,
    NEEDS_RAY,
    PYTHON,
    WITHIN_S,
    Cluster,
    are_answered,
    free_port,
    http,
    long_call,
    running_cluster,
    wait_until,
)
from tests.service.scraped import scrape

pytestmark = NEEDS_RAY

#: A busy machine may need several attempts until another replica is there.
PATIENT = Retries(retries=50, max_wait_s=WITHIN_S, max_backoff_s=2)
JPEG = (CLIPS.parent / "seeds" / "rgb.jpg").read_bytes()


@pytest.fixture(scope="module")
def cluster(weights: Path) -> Iterator[Cluster]:
    """Two nodes with three CPUs each. Each test deploys what it needs."""
    with running_cluster(weights, cpus=3) as nodes:
        yield nodes


def deploy(cluster: Cluster, replicas: int, **settings: str) -> None:
    """Deploy so many replicas with these settings."""
    variables = {f"SCMRL_{name.upper()}": value for name, value in settings.items()}
    cluster.deploy(variables, min_replicas=replicas, max_replicas=replicas)
    wait_until(lambda: sum(cluster.replicas()) == replicas, f"{replicas} replicas")


@pytest.mark.parametrize("host", [HEAD, "nowhere"])
def test_a_cluster_that_is_not_there_is_said(host: str) -> None:
    address = f"{host}:{free_port()}" if host == HEAD else host
    at_once = {"RAY_gcs_rpc_server_connect_timeout_s": "1", "RAY_py_gcs_connect_timeout_s": "1"}
    done = subprocess.run(
        [PYTHON.with_name("scmrl"), "ray", f"--address={address}"], env=os.environ | at_once,
        capture_output=True, text=True, timeout=WITHIN_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"scmrl ray: cannot join the Ray cluster {address}: " in done.stderr
    assert "Traceback" not in done.stderr


def load(
    cluster: Cluster, clip: bytes, clients: int, until: Callable[[], Awaitable[None]]
) -> Counter[str]:
    """Let clients classify clips until the coroutine ends; return the number of each outcome."""
    outcomes: Counter[str] = Counter()

    async def client(stopping: asyncio.Event) -> None:
        async with AsyncClient(
            cluster.url, key=KEY, timeout_s=WITHIN_S, retries=PATIENT
        ) as service:
            while not stopping.is_set():
                try:
                    answer = await service.classify(clip=clip)
                    outcomes["answered" if answer.probabilities else "empty"] += 1
                except Exception as exc:
                    outcomes[repr(exc)] += 1

    async def run() -> None:
        stopping = asyncio.Event()
        tasks = [asyncio.create_task(client(stopping)) for _ in range(clients)]
        try:
            await until()
        finally:
            stopping.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())
    return outcomes


async def until(happened: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, happened)


def test_what_a_client_sees_is_what_one_service_shows(cluster: Cluster, clip: bytes) -> None:
    deploy(cluster, 2)
    with Client(cluster.url, key=KEY, timeout_s=WITHIN_S) as client:
        assert client.classify(clip=clip).probabilities
        with client.stream([PictureInput()], window_s=0.5, hop_s=0.5) as stream:
            for time_ns in range(0, 1_100_000_000, 100_000_000):
                stream.send_picture(JPEG, time_ns)
            assert stream.receive(timeout_s=WITHIN_S) is not None
            stream.close()
            while stream.receive(timeout_s=WITHIN_S) is not None:
                pass
            assert stream.summary is not None
    with pytest.raises(ProblemError, match="key-needed"), Client(cluster.url) as client:
        client.classify(clip=clip)
    with http(cluster.url) as plain:
        ready = plain.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (200, "ready")
        huge = plain.post("/v1/classify", files={"clip": bytes(130 << 20)})
        assert (huge.status_code, huge.json()["type"]) == (413, "urn:scmrl:error:too-large")
        with pytest.raises(httpx.ReadTimeout):  # a client that disconnects affects no other
            plain.post("/v1/classify", files={"clip": clip}, timeout=httpx.Timeout(60, read=0.001))
        assert plain.get("/-/healthz").text == "success", "the proxy's own, for load balancers"


def test_a_node_that_is_killed_under_load_loses_no_request(weights: Path, clip: bytes) -> None:
    served = asyncio.Event()

    async def kill() -> None:
        await asyncio.sleep(3)  # until both replicas are at work
        nodes.kill_worker()
        # Ray starts another replica on the node that is left.
        await until(lambda: nodes.replicas() == [2, 0])
        await asyncio.sleep(3)
        served.set()

    with running_cluster(weights, cpus=3) as nodes:
        deploy(nodes, 2)
        assert nodes.replicas() == [1, 1]
        outcomes = load(nodes, clip, clients=6, until=kill)
    assert served.is_set()
    assert set(outcomes) == {"answered"}, outcomes


def test_scaling_up_and_down_under_load_loses_no_request(cluster: Cluster, clip: bytes) -> None:
    cluster.deploy(min_replicas=1, max_replicas=3, target_ongoing_requests=1, downscale_delay_s=5)
    wait_until(lambda: sum(cluster.replicas()) == 1, "one replica")

    async def grow() -> None:
        await until(lambda: sum(cluster.replicas()) == 3)
        await asyncio.sleep(20)  # the new ones get requests

    async def shrink() -> None:
        await until(lambda: sum(cluster.replicas()) == 1)

    assert set(many := load(cluster, clip, clients=8, until=grow)) == {"answered"}, many
    assert set(few := load(cluster, clip, clients=1, until=shrink)) == {"answered"}, few


def test_the_work_of_a_client_that_disconnects_is_cancelled(cluster: Cluster, clip: bytes) -> None:
    deploy(cluster, 1)
    with http(cluster.url) as client:

        def total(name: str, **labels: str) -> float:
            return scrape(client).total(f"scmrl_{name}", model="avdigits", **labels)

        def left() -> float:
            return total("requests_total", status="499")

        async def leave() -> None:
            async with httpx.AsyncClient(
                base_url=cluster.url, headers=client.headers, timeout=WITHIN_S
            ) as leaver:
                files = [("clip", clip)] * CALL
                call = asyncio.create_task(leaver.post("/v1/classify/batch", files=files))
                await until(lambda: total("requests_in_flight") > 0)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call

        runs, before = total("stage_seconds_count", stage="inference"), left()
        asyncio.run(leave())
        wait_until(lambda: left() == before + 1, "the call is counted")
        wait_until(lambda: total("requests_in_flight") == 0, "no clip of it is in flight")
        assert total("stage_seconds_count", stage="inference") < runs + CALL

        with Client(cluster.url, key=KEY, timeout_s=WITHIN_S) as streams:
            with streams.stream([PictureInput()]):
                assert scrape(client).total("scmrl_stream_sessions") == 1
            wait_until(lambda: scrape(client).total("scmrl_stream_sessions") == 0, "it is closed")


def answers(stream: Stream) -> Iterator[Answer]:
    """Send pictures in real time, and yield the answers. Raises StreamClosedError."""
    for _ in range(10 * WITHIN_S):
        stream.send_picture(JPEG)
        with suppress(TimeoutError):
            message = stream.receive(timeout_s=0.1)
            assert isinstance(message, Answer)
            yield message


def stop(cluster: Cluster) -> None:
    """Replace the replica by one with other settings."""
    deploy(cluster, 1, max_batch="3", shutdown_grace_s="2")


@pytest.mark.parametrize("end", [stop, Cluster.kill_replicas])
def test_a_stream_whose_replica_ends_is_lost_and_another_can_be_opened(
    cluster: Cluster, end: Callable[[Cluster], None]
) -> None:
    deploy(cluster, 1, max_batch="2", shutdown_grace_s="1")
    with Client(cluster.url, key=KEY, timeout_s=WITHIN_S, retries=PATIENT) as client:
        with client.stream([PictureInput()], window_s=0.5, hop_s=0.5) as stream:
            assert next(answers(stream))
            end(cluster)
            with pytest.raises(StreamClosedError) as lost:
                list(answers(stream))
        assert lost.value.code == 1006, "without a close frame"
        with client.stream([PictureInput()], window_s=0.5, hop_s=0.5) as stream:
            assert next(answers(stream))


def test_stop_ends_it_once_requests_are_answered(cluster: Cluster, clip: bytes) -> None:
    deploy(cluster, 1)
    with http(cluster.url) as client, long_call(client, clip) as call:
        completed = cluster.run("--stop")
        assert are_answered(call)
    assert (completed.returncode, completed.stdout) == (0, "scmrl has ended\n"), completed.stderr
    assert sum(cluster.replicas()) == 0
    again = cluster.run("--stop")
    assert again.returncode == 1
    assert "does not serve scmrl" in again.stderr
