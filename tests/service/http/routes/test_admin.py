"""Checkpoints are loaded and unloaded while others are served, and no request is dropped."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from service.app import create_app
from service.settings import Settings
from tests.service import checkpoints
from tests.service.inference.test_registry import damage
from tests.service.integration.test_refusals import problem
from tests.service.running_server import listening, statuses, wait_until
from tests.service.scraped import scrape

pytestmark = pytest.mark.slow

MODELS = "/v1/admin/models"
KEY = "admin-q7Zt4mXv9RkB2wLc8NpY"


@dataclass
class Served:
    client: httpx.Client
    folder: Path

    def version(self, name: str) -> str:
        return str(self.client.get(f"/v1/models/{name}").json()["version"])


@pytest.fixture
def served(weights: Path, tmp_path: Path) -> Iterator[Served]:
    folder = Path(shutil.copytree(weights, tmp_path / "weights"))
    settings = Settings(models=folder, compile="off", admin_key=SecretStr(KEY))
    with listening(create_app(settings)) as client:
        client.headers["Authorization"] = f"Bearer {KEY}"
        wait_until(lambda: "loading" not in statuses(client).values())
        yield Served(client, folder)


@pytest.mark.parametrize("name", ["new", "Meine \u00c4pfel"])
def test_a_new_checkpoint_is_served_once_it_is_asked_for(
    served: Served, clip: bytes, name: str
) -> None:
    checkpoints.save(served.folder / name, seed=5, name=name)
    ask = f"/v1/models/{name}/classify"
    assert served.client.post(ask, files={"clip": clip}).status_code == 404
    answer = served.client.put(f"{MODELS}/{name}")
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "ready"
    assert statuses(served.client)[name] == "ready"
    assert served.client.post(ask, files={"clip": clip}).status_code == 200


def test_an_unloaded_checkpoint_is_gone_and_can_come_back(served: Served, clip: bytes) -> None:
    assert served.client.delete(f"{MODELS}/strict").status_code == 204
    assert list(statuses(served.client)) == ["avdigits"]
    assert served.client.get("/v1/models/strict").status_code == 404
    assert served.client.put(f"{MODELS}/strict").status_code == 200
    answer = served.client.post("/v1/models/strict/classify", files={"clip": clip})
    assert answer.status_code == 200


def test_the_default_checkpoint_stays(served: Served) -> None:
    refused = served.client.delete(f"{MODELS}/avdigits")
    assert refused.status_code == 409
    assert problem(refused)["type"] == "urn:scmrl:error:conflict"
    assert served.client.get("/readyz").status_code == 200


def test_a_corrupt_checkpoint_is_refused_by_file_and_the_old_one_stays_served(
    served: Served, clip: bytes
) -> None:
    damage(served.folder / "avdigits")
    refused = served.client.put(f"{MODELS}/avdigits")
    assert refused.status_code == 422
    detail = problem(refused)["detail"]
    assert detail.startswith("avdigits/card.json: sha256")
    assert "stays in service" in detail
    assert str(served.folder) not in refused.text
    assert served.client.post("/v1/classify", files={"clip": clip}).status_code == 200
    assert served.client.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    "name", ["nobody", "..", "%2e%2e%2fweights", ".hidden", "a" * 200, "a%0ab"]
)
def test_only_folders_of_checkpoints_can_be_asked_for(served: Served, name: str) -> None:
    for refused in (
        served.client.put(f"{MODELS}/{name}"),
        served.client.delete(f"{MODELS}/{name}"),
    ):
        assert refused.status_code in (404, 405), refused.text


def test_requests_are_answered_while_checkpoints_change(served: Served, clip: bytes) -> None:
    """A load of requests from three clients while the default checkpoint is loaded again."""
    enough = threading.Event()
    answers: list[int] = []

    def client() -> None:
        with httpx.Client(base_url=served.client.base_url, timeout=60) as own:
            while not enough.is_set():
                answers.append(own.post("/v1/classify", files={"clip": clip}).status_code)

    threads = [threading.Thread(target=client, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for version in ("1.1.0", "1.2.0", "1.3.0"):
            checkpoints.save(served.folder / "avdigits", seed=9, version=version)
            assert served.client.put(f"{MODELS}/avdigits").status_code == 200
            assert served.version("avdigits") == version
    finally:
        enough.set()
        for thread in threads:
            thread.join()
    assert len(answers) >= 3
    assert set(answers) == {200}
    assert sum(t.name == "scmrl-engine" for t in threading.enumerate()) >= 2
    wait_until(lambda: sum(t.name == "scmrl-engine" for t in threading.enumerate()) <= 4)


def test_deleted_files_are_logged_once_and_the_checkpoint_stays_served(
    served: Served, clip: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "scmrl")
    shutil.rmtree(served.folder)
    wait_until(lambda: "the files of avdigits are missing" in caplog.text)
    assert served.client.post("/v1/classify", files={"clip": clip}).status_code == 200
    assert served.client.get("/readyz").status_code == 200
    assert caplog.text.count("the files of avdigits are missing") == 1
    refused = served.client.put(f"{MODELS}/avdigits")
    assert refused.status_code == 404
    assert "avdigits/card.json" in problem(refused)["detail"]
    assert "stays in service" in problem(refused)["detail"]
    assert served.client.post("/v1/classify", files={"clip": clip}).status_code == 200


def test_replaced_files_are_logged_until_they_are_loaded(
    served: Served, clip: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def intact() -> float:
        return scrape(served.client).total("scmrl_model_files_intact", model="avdigits")

    caplog.set_level(logging.ERROR, "scmrl")
    assert intact() == 1
    weights = served.folder / "avdigits" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    wait_until(lambda: intact() == 0)
    assert served.client.get("/readyz").status_code == 200
    refused = served.client.put(f"{MODELS}/avdigits")
    assert refused.status_code == 422
    assert problem(refused)["detail"].startswith("avdigits/")
    assert served.client.post("/v1/classify", files={"clip": clip}).status_code == 200
    assert caplog.text.count("the files of avdigits have changed") == 1
    weights.unlink()
    wait_until(lambda: "the files of avdigits are missing" in caplog.text)
    checkpoints.save(served.folder / "avdigits", seed=9, version="1.1.0")
    assert served.client.put(f"{MODELS}/avdigits").status_code == 200
    assert intact() == 1
    assert "strict" not in caplog.text
