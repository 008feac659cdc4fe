"""A load that hangs delays neither other loads, nor classification, nor shutdown."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from model.checkpoint import card
from service.app import create_app
from service.errors import Error, Problem, StartupError
from service.inference import file_watch, model_loader, startup
from service.inference.loading import MAX_LOADS, Attempt, LoadAbandoned, Loads
from service.inference.model_loader import ModelLoader
from service.inference.model_server import ModelServer
from service.inference.served_model import ServedModel
from service.settings import Settings
from tests.service import checkpoints
from tests.service.engines import no_threads
from tests.service.http.routes.test_admin import KEY, MODELS
from tests.service.integration.test_refusals import problem
from tests.service.running_server import listening, loading, statuses, until_ready, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def answers() -> Iterator[threading.Event]:
    """What loads that hang wait for. It is set when the test is over; they have ended then."""
    event = threading.Event()
    yield event
    event.set()
    wait_until(lambda: not loading())


def loads_of(app: FastAPI) -> Loads:
    loads = app.state.scmrl.models._server.reloads._loads
    assert isinstance(loads, Loads)
    return loads


class Disk:
    """Reads of files in folders of these names set `hangs` and wait until `answers` is set."""

    def __init__(self, *hanging: str) -> None:
        self.hanging = set(hanging)
        self.hangs, self.answers = threading.Event(), threading.Event()
        self._read = card.read_regular

    def read(self, file: Path, max_bytes: int) -> bytes:
        if file.parent.name in self.hanging:
            self.hangs.set()
            self.answers.wait()
        return self._read(file, max_bytes)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(card, "read_regular", disk.read)
    yield disk
    disk.answers.set()


@pytest.fixture
def folder(weights: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(weights, tmp_path / "weights"))


def settings(folder: Path, load_timeout_s: float = 600.0) -> Settings:
    key = SecretStr(KEY)
    return Settings(models=folder, compile="off", admin_key=key, load_timeout_s=load_timeout_s)


@pytest.fixture
def client(folder: Path, disk: Disk) -> Iterator[httpx.Client]:
    with listening(create_app(settings(folder))) as client:
        client.headers["Authorization"] = f"Bearer {KEY}"
        wait_until(lambda: "loading" not in statuses(client).values())
        yield client
        disk.answers.set()


@pytest.mark.parametrize("file", ["card.json", "model.safetensors"])
def test_a_fifo_is_refused_at_once(client: httpx.Client, folder: Path, file: str) -> None:
    (folder / "strict" / file).unlink()
    os.mkfifo(folder / "strict" / file)
    refused = client.put(f"{MODELS}/strict")
    assert refused.status_code == 422
    assert f"strict/{file}: is not a regular file" in problem(refused)["detail"]
    assert statuses(client)["strict"] == "ready"


def test_a_disk_that_hangs_costs_its_own_load_only(
    client: httpx.Client, disk: Disk, clip: bytes
) -> None:
    disk.hanging.add("strict")
    with ThreadPoolExecutor(1) as pool:
        try:
            hanging = pool.submit(client.put, f"{MODELS}/strict")
            assert disk.hangs.wait(60)
            assert client.put(f"{MODELS}/strict").status_code == 409
            second = client.delete(f"{MODELS}/strict")
            assert second.status_code == 409
            assert int(second.headers["Retry-After"]) > 0
            assert client.get("/readyz").status_code == 200
            assert client.post("/v1/classify", files={"clip": clip}).status_code == 200
            assert client.put(f"{MODELS}/avdigits").status_code == 200
            assert not hanging.done()
        finally:
            disk.answers.set()
        assert hanging.result().status_code == 200


def test_a_load_without_memory_is_503_and_changes_nothing(
    client: httpx.Client, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> ServedModel:
        raise MemoryError("cuda:0 lacks memory for the network's weights")

    monkeypatch.setattr(model_loader, "load", fail)
    refused = client.put(f"{MODELS}/strict")
    assert refused.status_code == 503
    assert problem(refused)["type"] == "urn:scmrl:error:full"
    assert "too little memory to load strict" in problem(refused)["detail"]
    assert int(refused.headers["Retry-After"]) > 0
    assert client.post("/v1/models/strict/classify", files={"clip": clip}).status_code == 200


def test_a_load_over_its_limit_is_abandoned_and_its_name_is_free_when_the_disk_answers(
    folder: Path, disk: Disk, clip: bytes
) -> None:
    app = create_app(settings(folder))
    with listening(app) as client:
        client.headers["Authorization"] = f"Bearer {KEY}"
        wait_until(lambda: "loading" not in statuses(client).values())
        disk.hanging.add("strict")
        loads = loads_of(app)
        loads.limit_s = 0.2  # of the load that hangs alone: a busy machine loads slowly
        abandoned = client.put(f"{MODELS}/strict")
        assert abandoned.status_code == 504
        assert problem(abandoned)["type"] == "urn:scmrl:error:load-timeout"
        assert "stays in service" in problem(abandoned)["detail"]
        assert int(abandoned.headers["Retry-After"]) > 0
        loads.limit_s = 600.0
        again = client.put(f"{MODELS}/strict")
        assert again.status_code == 409, "its thread hangs still"
        assert "abandoned" in problem(again)["detail"]
        response = client.post("/v1/models/strict/classify", files={"clip": clip})
        assert response.status_code == 200
        disk.answers.set()
        wait_until(lambda: client.put(f"{MODELS}/strict").status_code == 200)


def test_twelve_reloads_at_once_drop_no_request(tmp_path: Path, clip: bytes) -> None:
    names = ["avdigits", *(f"other-{number}" for number in range(11))]
    for name in names:
        checkpoints.save(tmp_path / name, name=name)
    with listening(create_app(settings(tmp_path))) as client, ThreadPoolExecutor(24) as pool:
        client.headers["Authorization"] = f"Bearer {KEY}"
        wait_until(lambda: set(statuses(client).values()) == {"ready"})
        loads = [pool.submit(client.put, f"{MODELS}/{name}") for name in names]
        twice = pool.submit(client.put, f"{MODELS}/avdigits")
        paths = ["/v1/classify"] * 4 + [f"/v1/models/{name}/classify" for name in names[:6]]
        futures = [pool.submit(client.post, path, files={"clip": clip}) for path in paths]
        assert [one.result().status_code for one in futures] == [200] * len(paths)
        codes = [one.result().status_code for one in loads]
        assert codes[1:] == [200] * 11
        # Which of the two of one name comes first is not known; one may come after the other.
        assert 200 in {codes[0], twice.result().status_code} <= {200, 409}
        assert set(statuses(client).values()) == {"ready"}


def test_a_checkpoint_that_hangs_at_the_start_does_not_hold_up_the_others(
    folder: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "_OVERTAKE_S", 0.1)
    checkpoints.save(folder / "hung", seed=2, name="hung")  # before `strict`, in their order
    disk.hanging.add("hung")
    with listening(create_app(settings(folder))) as client:
        wait_until(lambda: statuses(client).get("strict") == "ready")
        assert statuses(client) == {"avdigits": "ready", "hung": "loading", "strict": "ready"}
        until_ready(client)
        disk.answers.set()
        wait_until(lambda: statuses(client)["hung"] == "ready")


def test_unloading_waits_for_the_requests_that_are_inside(folder: Path, clip: bytes) -> None:
    upload = httpx.Request("POST", "http://x", files={"clip": clip})
    body, go_on = upload.read(), threading.Event()

    def in_two_parts() -> Iterator[bytes]:
        yield body[:1000]
        go_on.wait()
        yield body[1000:]

    app = create_app(settings(folder))
    in_flight = app.state.scmrl.in_flight
    with listening(app) as client, ThreadPoolExecutor(2) as pool:
        client.headers["Authorization"] = f"Bearer {KEY}"
        wait_until(lambda: statuses(client).get("strict") == "ready")
        headers = {"Content-Type": upload.headers["Content-Type"]}
        path = "/v1/models/strict/classify"
        futures = pool.submit(client.post, path, content=in_two_parts(), headers=headers)
        try:
            wait_until(lambda: in_flight.total == 1)
            unloading = pool.submit(client.delete, f"{MODELS}/strict")
            wait_until(lambda: "strict" not in statuses(client))
            time.sleep(0.5)
            assert not unloading.done()
        finally:
            go_on.set()
        assert futures.result().status_code == 200
        assert unloading.result().status_code == 204


# --- at the start --------------------------------------------------------------------------------


@pytest.mark.parametrize(("module", "call"), [(Path, "is_dir"), (os, "listdir")])
def test_a_folder_of_checkpoints_that_hangs_is_abandoned(
    weights: Path,
    module: object,
    call: str,
    monkeypatch: pytest.MonkeyPatch,
    answers: threading.Event,
) -> None:
    monkeypatch.setattr(module, call, lambda *_, **__: answers.wait() and [])
    with pytest.raises(StartupError, match=r"longer than 0\.5 s \(SCMRL_LOAD_TIMEOUT_S"):
        ModelServer(settings(weights, load_timeout_s=0.5)).startup.load_default()


def test_a_folder_that_hangs_among_others_does_not_keep_them_from_being_listed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, answers: threading.Event
) -> None:
    (folder / "hung").mkdir()
    (folder / "no checkpoint").mkdir()
    exists = os.path.exists

    def hang_in_one(path: str | Path) -> bool:
        if Path(path).parent.name == "hung":
            answers.wait()
        return exists(path)

    monkeypatch.setattr(os.path, "exists", hang_in_one)
    monkeypatch.setattr(file_watch, "_HANGS_S", 0.5)
    models = ModelServer(settings(folder))
    models.startup.load_default()
    answers.set()
    assert models.registry.names == ["avdigits", "hung", "strict"]
    models.stop()


def test_files_on_a_hung_disk_are_logged_as_such_and_the_others_are_checked(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    answers: threading.Event,
) -> None:
    checks = []  # of this folder: a service of other tests may watch its own meanwhile

    def hang_in_one(path: Path) -> file_watch.FileStates | None:
        if path.parent == folder:
            checks.append(path.name)
            if path.name == "strict":
                answers.wait()
        return look(path)

    look = file_watch.file_states
    watch = file_watch.FileWatch(folder)
    for name in ("avdigits", "strict"):
        watch.note(name, look(folder / name))
    monkeypatch.setattr(file_watch, "file_states", hang_in_one)
    monkeypatch.setattr(file_watch, "_HANGS_S", 0.2)
    (folder / "avdigits" / "card.json").unlink()

    def are_reported() -> bool:
        watch.check("strict")
        watch.check("avdigits")
        return not watch.is_intact("strict") and not watch.is_intact("avdigits")

    wait_until(are_reported)
    for _ in range(10):
        are_reported()
    assert checks.count("strict") == 1, "one thread waits for the disk"
    assert caplog.text.count("the files of strict cannot be read") == 1
    assert caplog.text.count("the files of avdigits are missing") == 1
    answers.set()
    wait_until(lambda: are_reported() is False and watch.is_intact("strict"))


def test_a_fifo_in_the_place_of_the_default_checkpoints_weights_is_named(folder: Path) -> None:
    file = folder / "avdigits" / "model.safetensors"
    file.unlink()
    os.mkfifo(file)
    models = ModelServer(settings(folder))
    with pytest.raises(StartupError, match=f"{file}: is not a regular file"):
        models.startup.load_default()
    assert "could not be loaded" in (models.not_ready_reason() or "")


def test_a_compiler_that_hangs_at_the_start_does_not_hold_up_the_others(
    folder: Path, answers: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs for the default checkpoint, which is served by its plain path."""

    app = create_app(settings(folder))

    def hang(loader: ModelLoader, name: str) -> None:
        if name == "avdigits":
            loads_of(app).limit_s = 0.1
            answers.wait()

    monkeypatch.setattr(ModelLoader, "fuse", hang)
    with listening(app) as client:
        client.headers["Authorization"] = f"Bearer {KEY}"
        # On a busy machine the other one exceeds that limit as well.
        wait_until(lambda: statuses(client).get("strict") in ("ready", "failed"))
        loads_of(app).limit_s = 600.0
        monkeypatch.undo()
        assert client.put(f"{MODELS}/avdigits").status_code == 200
        answers.set()


# --- the loads themselves ------------------------------------------------------------------------


def test_loads_that_hang_are_bounded_and_the_refusal_says_why(answers: threading.Event) -> None:
    loads = Loads(0.1, lambda: False)
    for number in range(MAX_LOADS):
        attempt = loads.reserve(f"hung-{number}")
        with pytest.raises(LoadAbandoned):
            loads.run(attempt, answers.wait)
    with pytest.raises(Problem, match=f"{MAX_LOADS} of them exceeded their limit") as refused:
        loads.reserve("another")
    assert refused.value.error is Error.FULL
    assert refused.value.retry_after_s
    answers.set()
    wait_until(lambda: not loads.reserved)
    done: list[int] = []
    loads.run(loads.reserve("another"), lambda: done.append(1))
    assert done == [1]


def test_a_served_load_that_hangs_lets_its_name_be_loaded_again(
    answers: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """As where the compiler of its fused path hangs. Such threads are bounded as well."""
    loads = Loads(0.05, lambda: False)

    def load(attempt: Attempt) -> None:
        assert attempt.commit()
        answers.wait()

    first = loads.reserve("hung")
    loads.run(first, lambda: load(first))
    assert "hung is served, but its fused path is not ready" in caplog.text
    for _ in range(MAX_LOADS - 1):
        attempt = loads.reserve("hung")
        loads.run(attempt, partial(load, attempt))
    with pytest.raises(Problem, match=f"{MAX_LOADS} of them exceeded their limit"):
        loads.reserve("hung")
    answers.set()
    wait_until(lambda: not loading())
    later = loads.reserve("hung")
    loads.release(first)  # its thread ends after another load has the name
    with pytest.raises(Problem, match="already being loaded"):
        loads.reserve("hung")
    loads.release(later)


def test_the_wait_for_its_turn_does_not_count_towards_the_limit_of_a_load() -> None:
    loads, inside = Loads(2.0, lambda: False), threading.Semaphore(1)

    def load(name: str) -> None:
        attempt = loads.reserve(name)

        def work() -> None:
            with loads.exclusive_compute(attempt):
                assert inside.acquire(blocking=False), "two have their turn"
                time.sleep(0.5)
                inside.release()

        loads.run(attempt, work)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(load, map(str, range(8))))


def test_a_load_that_hangs_in_its_turn_does_not_block_the_next(answers: threading.Event) -> None:
    loads, done = Loads(0.5, lambda: False), threading.Event()
    hung, other = loads.reserve("hung"), loads.reserve("other")

    def hang_in_turn() -> None:
        with loads.exclusive_compute(hung):
            answers.wait()

    def compute() -> None:
        with loads.exclusive_compute(other):
            done.set()

    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(loads.run, hung, hang_in_turn)
        wait_until(lambda: loads.compute_holder is hung)
        loads.run(other, compute)
        assert done.is_set()
        with pytest.raises(LoadAbandoned):
            hanging.result()
    answers.set()


def test_loads_end_when_the_service_does(answers: threading.Event) -> None:
    stopping = threading.Event()
    loads = Loads(600.0, stopping.is_set)
    attempt = loads.reserve("hung")
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(loads.run, attempt, answers.wait)
        stopping.set()
        with pytest.raises(Problem, match="shutting down"):
            hanging.result(60)
    assert not attempt.commit(), "what it loads would be served"
    answers.set()
    with pytest.raises(Problem, match="shutting down"):
        loads.run(loads.reserve("late"), answers.wait)


def test_where_no_thread_can_be_started_the_name_is_free_again() -> None:
    loads = Loads(60, lambda: False)
    with no_threads(), pytest.raises(MemoryError, match="can't start new thread"):
        loads.run(loads.reserve("a"), lambda: None)
    loads.run(loads.reserve("a"), lambda: None)
