"""`scmrl serve` with two HTTP workers: one service to its clients, whichever of them answers."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.processes import worker_count
from service.processes.worker_count import http_workers
from service.settings import Settings
from service.streaming.messages import PICTURE, SOUND
from tests.conftest import ROOT
from tests.service import checkpoints
from tests.service.checkpoints import SPECS
from tests.service.decoding.test_pool import children_of
from tests.service.open_inference.test_rest import CLIP, INFER, binary, encoded
from tests.service.process import Serve
from tests.service.running_server import running, wait_until
from tests.service.runtime.test_shutdown import half_an_upload
from tests.service.scraped import scrape
from tests.service.streaming import test_coded as coded
from tests.service.streaming.test_stream import (
    close_of,
    media,
    messages,
    receive,
    socket_of,
    start,
)

pytestmark = pytest.mark.slow

ANNA, BERT = "anna-q7Zt4mXv9RkB2wLc8NpY", "bert-q7Zt4mXv9RkB2wLc8NpY"
ADMIN = "admin-q7Zt4mXv9RkB2wLc8NpY"
#: Tests stop a worker for longer than it may hang.
OPEN = {
    "SCMRL_HTTP_WORKERS": "2",
    "SCMRL_COMPILE": "off",
    "SCMRL_ENGINE_TIMEOUT_S": "600",
}
SETTINGS = OPEN | {
    "SCMRL_STREAM_DECODERS": "1",
    "SCMRL_API_KEYS": f"anna:{ANNA},bert:{BERT}:2",
    "SCMRL_ADMIN_KEY": ADMIN,
}


@dataclass
class Service:
    """A service with two HTTP workers, and its folder of checkpoints."""

    serve: Serve
    address: str
    folder: Path

    @property
    def workers(self) -> list[int]:
        """Their process ids, in their order."""
        parent = self.serve.process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        names = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
        return sorted(pid for pid, name in names.items() if b"http_worker" in name)

    def client(self, key: str = ANNA) -> httpx.Client:
        headers = {"Authorization": f"Bearer {key}", "Connection": "close"}
        return httpx.Client(base_url=self.address, timeout=60, headers=headers)

    @contextmanager
    def only(self, number: int, key: str = ANNA) -> Iterator[httpx.Client]:
        """A client whose connections one worker accepts: the other one is stopped meanwhile."""
        (other,) = (pid for pid in self.workers if pid != self.workers[number])
        os.kill(other, signal.SIGSTOP)
        try:
            with self.client(key) as client:
                yield client
        finally:
            os.kill(other, signal.SIGCONT)


@pytest.fixture(scope="module")
def one(weights: Path) -> Iterator[httpx.Client]:
    """A service in one process."""
    with running(weights, compile="off") as client:
        yield client


@pytest.fixture(scope="module")
def two(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("two")
    checkpoints.save(folder / "avdigits")
    serve = Serve("--models", folder, "--port", 0, **SETTINGS)
    try:
        yield Service(serve, serve.address(), folder)
    finally:
        serve.process.kill()
        serve.code()


def content(answer: Any) -> Any:
    """An answer without what differs between two requests."""
    if isinstance(answer, dict):
        differ = ("id", "timing_ms", "batch_size")
        return {k: content(v) for k, v in answer.items() if k not in differ}
    return [content(each) for each in answer] if isinstance(answer, list) else answer


def near(answer: Any) -> Any:
    """What equals an answer but for rounding, which differs with the size of a batch."""
    if isinstance(answer, dict):
        return {k: near(v) for k, v in answer.items()}
    if isinstance(answer, list):
        return [near(each) for each in answer]
    return pytest.approx(answer, abs=1e-4) if isinstance(answer, float) else answer


def tensors() -> tuple[bytes, dict[str, str]]:
    """A request for inference with prepared tensors."""
    generator = np.random.default_rng(0)
    heads, blobs = [], []
    for name, spec in SPECS.items():
        values = generator.normal(size=(1, 1, spec.channels, *spec.size)).astype(np.float32)
        parameters = {"binary_data_size": values.nbytes}
        heads.append({"name": name, "shape": list(values.shape), "datatype": "FP32",
                      "parameters": parameters})  # fmt: skip
        blobs.append(values.tobytes())
    return binary({"inputs": heads}, *blobs)


def has_torch(pid: int) -> bool:
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


def test_every_entrance_answers_as_one_process_does_and_workers_import_no_torch(
    two: Service, one: httpx.Client, clip: bytes
) -> None:
    body, headers = tensors()
    pictures, sound = media(clip)

    def streamed(client: httpx.Client) -> dict[str, Any]:
        key = {"Authorization": f"Bearer {ANNA}"}
        with socket_of(client, additional_headers=key) as socket:
            start(socket, window_s=2, hop_s=50)
            for each in messages(pictures, sound, 1_000_000_000):
                socket.send(each)
            socket.send('{"type": "finalize"}')
            return content(receive(socket)["result"])

    def answers(client: httpx.Client) -> list[Any]:
        options = {"attention": "overlay", "contributions": "leave_one_out", "diagnostics": "true"}
        form = client.post("/v1/classify", files={"clip": clip}, data=options)
        text = base64.b64encode(clip).decode()
        sent = client.post("/v1/classify", json={"clip": text, "steps_trace": True, "steps": 3})
        batch = client.post("/v1/classify/batch", json=[{"clip": text}] * 3)
        files = client.post(INFER, json={"inputs": [{**CLIP, "data": [encoded(clip)]}]})
        prepared = client.post(INFER, content=body, headers=headers)
        assert {r.status_code for r in (form, sent, batch, files, prepared)} == {200}, sent.text
        several = [content(each["answer"]) for each in batch.json()["results"]]
        return [
            content(form.json()), content(sent.json()), several,
            content(files.json()["outputs"]), content(prepared.json()["outputs"]),
            streamed(client),
        ]  # fmt: skip

    expected = near(answers(one))
    for number in range(2):
        with two.only(number) as client:
            assert answers(client) == expected
            assert client.get("/v1/models").json()["models"][0]["path"] == "plain"
    assert has_torch(two.serve.process.pid)
    assert [has_torch(pid) for pid in two.workers] == [False, False]


def test_streams_with_decoders_of_their_own_are_answered_by_each_worker_within_one_limit(
    two: Service, one: httpx.Client, clip: bytes
) -> None:
    key = {"Authorization": f"Bearer {ANNA}"}
    packets = coded.messages(
        (PICTURE, coded.video_packets(clip)), (SOUND, coded.opus_packets(clip))
    )

    def decoders(client: httpx.Client) -> float:
        return scrape(client).total("scmrl_stream_decoders")

    def streamed(client: httpx.Client) -> list[Any]:
        with socket_of(client, additional_headers=key) as socket:
            coded.start(socket, coded.CODED, window_s=2.02)
            for each in packets:
                socket.send(each)
            socket.send('{"type": "close"}')
            answer, summary = receive(socket), receive(socket)
        # A worker that is stopped while it holds the decoder's slot keeps it.
        wait_until(lambda: decoders(client) == 0)
        return [content(answer["result"]), summary["packets"]]

    expected = near(streamed(one))
    for number in range(2):
        with two.only(number) as client:
            assert streamed(client) == expected
    with ExitStack() as stack:
        with two.only(0) as client:
            socket = stack.enter_context(socket_of(client, additional_headers=key))
            coded.start(socket, coded.CODED)
        with two.client() as client:
            wait_until(lambda: decoders(client) == 1)
        lost, other = two.workers
        with two.only(1) as client, socket_of(client, additional_headers=key) as surplus:
            surplus.send(json.dumps({"type": "start", "inputs": coded.CODED}))
            code, reason = close_of(surplus)
            assert (code, "SCMRL_STREAM_DECODERS" in reason) == (4429, True)
        of_lost = [child for each in children_of(lost) for child in (each, *children_of(each))]
        assert len(of_lost) > 2, "what forks, and decoders"
        os.kill(lost, signal.SIGKILL)
        wait_until(lambda: len(two.workers) == 2 and lost not in two.workers)
        wait_until(lambda: not any(_runs(pid) for pid in of_lost))
    with two.only(two.workers.index(other)) as client:
        wait_until(lambda: decoders(client) == 0)
        assert streamed(client) == expected, "the place of the lost one is free"


def test_a_request_has_the_id_that_it_asks_for(two: Service, clip: bytes) -> None:
    with two.client() as client:
        headers = {"X-Request-ID": "mine.1"}
        answer = client.post("/v1/classify", files={"clip": clip}, headers=headers)
    assert (answer.json()["id"], answer.headers["X-Request-ID"]) == ("mine.1", "mine.1")


def test_a_key_has_one_limit_and_bad_keys_none(two: Service) -> None:
    statuses = []
    for number in range(2):
        with two.only(number, BERT) as client:
            statuses += [client.get("/v1/models").status_code for _ in range(2)]
    assert statuses == [200, 200, 429, 429]  # a third one only after 30 s
    with two.client("x" * 24) as client:
        assert client.get("/v1/models").status_code == 401


def test_metrics_are_one_view_and_outlive_a_worker_which_is_replaced(
    two: Service, clip: bytes
) -> None:
    def sent(client: httpx.Client) -> float:
        name, route = "scmrl_requests_total", "/v1/classify"
        return scrape(client).total(name, route=route, status="200")

    def restarts(client: httpx.Client) -> float:
        return scrape(client).total("scmrl_worker_restarts_total", kind="http")

    with two.client() as client:
        before, restarts_before = sent(client), restarts(client)
    for number in range(2):
        with two.only(number) as client:
            assert client.post("/v1/classify", files={"clip": clip}).status_code == 200
            assert sent(client) >= before + 1
    with two.client() as client:
        assert sent(client) == before + 2
        scrape(client)  # its counts have been taken
        old = two.workers
        other = old[1]
        os.kill(old[0], signal.SIGKILL)
        answers = [client.post("/v1/classify", files={"clip": clip}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200] * 3, "by the other one"
        wait_until(lambda: len(two.workers) == 2 and old[0] not in two.workers)
        assert other in two.workers
        assert old[0] not in two.workers
        assert sent(client) == before + 5
        assert client.get("/readyz").status_code == 200
        new = next(pid for pid in two.workers if pid != other)
        with two.only(two.workers.index(new)) as alone:
            assert alone.post("/v1/classify", files={"clip": clip}).status_code == 200
        assert restarts(client) == restarts_before + 1


def test_a_checkpoint_that_is_loaded_through_one_worker_is_served_by_both(
    two: Service, clip: bytes
) -> None:
    checkpoints.save(two.folder / "new", seed=5, name="new")
    with two.client(ADMIN) as admin:
        assert admin.put("/v1/admin/models/new").status_code == 200
        for number in range(2):
            with two.only(number) as client:
                ask = client.post("/v1/models/new/classify", files={"clip": clip})
                assert ask.status_code == 200
        assert admin.delete("/v1/admin/models/new").status_code == 204
        for number in range(2):
            with two.only(number) as client:
                assert client.get("/v1/models/new").status_code == 404


def test_a_signal_drains_all_workers_and_then_ends_them(
    serve: type[Serve], weights: Path, clip: bytes
) -> None:
    service = Service(serve("--models", weights, "--port", 0, **OPEN), "", weights)
    service.address = service.serve.address()
    workers = service.workers
    with ThreadPoolExecutor(1) as threads:
        url = httpx.URL(service.address)
        form = httpx.Request("POST", f"{url}/v1/classify", files={"clip": clip})
        form.read()
        with service.client() as client:
            os.kill(workers[1], signal.SIGSTOP)  # the other one has the request
            pending = threads.submit(client.send, client.build_request(
                "POST", "/v1/classify", content=_slowly(form.content),
                headers={"Content-Type": form.headers["Content-Type"]}))  # fmt: skip
            time.sleep(0.5)
            os.kill(workers[1], signal.SIGCONT)
            service.serve.process.send_signal(signal.SIGTERM)
            with service.client() as other:
                wait_until(lambda: other.get("/readyz").status_code == 503)
                assert other.post("/v1/classify", files={"clip": clip}).status_code == 503
            assert pending.result().status_code == 200
    assert service.serve.code() == 0, service.serve.logged
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def _slowly(body: bytes) -> Iterator[bytes]:
    yield body[:100]
    time.sleep(2)
    yield body[100:]


def test_workers_end_with_the_engine_process(serve: type[Serve], weights: Path) -> None:
    service = Service(serve("--models", weights, "--port", 0, **OPEN), "", weights)
    service.address = service.serve.address()
    workers = service.workers
    with half_an_upload(httpx.URL(service.address)) as caller:
        service.serve.process.kill()
        assert b"503" in caller.recv(1000)
    wait_until(lambda: not any(_runs(pid) for pid in workers))
    assert "the engine process has ended" in service.serve.logged


def _runs(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_there_are_several_by_default_where_there_is_a_gpu_and_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(cores: int, **settings: Any) -> int:
        monkeypatch.setattr(worker_count.cores, "available", lambda: cores)
        return http_workers(Settings(**settings))

    monkeypatch.setattr(worker_count, "_DEVICES", tmp_path)
    assert [count(2), count(64), count(2, http_workers=3)] == [1, 1, 3]
    (tmp_path / "nvidia0").touch()
    assert [count(4), count(8), count(16), count(256)] == [1, 2, 4, 16]
    assert count(16, device="cpu") == 1


def test_without_memory_to_share_it_ends_with_the_reason(weights: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); "
        "from service.cli import main; main()"
    )
    command = [sys.executable, "-c", code, "serve", "--models", weights, "--port", str(port)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | OPEN, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "no memory can be shared with HTTP workers: File too large" in done.stderr
