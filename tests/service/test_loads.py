"""A load that hangs costs itself only: not its neighbours, not the classifying, not the end."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from model import checkpoint
from service.app import create_app
from service.settings import Settings
from tests.service.server import listening, statuses, wait_until
from tests.service.test_admin import KEY, MODELS
from tests.service.test_refusals import problem


@pytest.fixture
def folder(weights: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(weights, tmp_path / "weights"))


@pytest.fixture
def client(folder: Path) -> Iterator[httpx.Client]:
    settings = Settings(models=folder, compile="off", admin_key=SecretStr(KEY), load_timeout_s=5.0)
    with listening(create_app(settings)) as client:
        client.headers["Authorization"] = f"Bearer {KEY}"
        wait_until(lambda: "loading" not in statuses(client).values())
        yield client


@pytest.mark.parametrize("file", ["card.json", "model.safetensors"])
def test_a_fifo_is_refused_at_once(client: httpx.Client, folder: Path, file: str) -> None:
    (folder / "strict" / file).unlink()
    os.mkfifo(folder / "strict" / file)
    refused = client.put(f"{MODELS}/strict")
    assert refused.status_code == 422
    assert f"strict/{file}: is not a regular file" in problem(refused)["detail"]
    assert statuses(client)["strict"] == "ready"


def test_a_disk_that_hangs_costs_its_own_load_only(
    client: httpx.Client, folder: Path, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, go_on = checkpoint.read_regular, threading.Event()

    def hang(file: Path) -> bytes:
        if file.parent.name == "strict":
            go_on.wait()
        return read(file)

    monkeypatch.setattr(checkpoint, "read_regular", hang)
    with ThreadPoolExecutor(1) as pool:
        try:
            hanging = pool.submit(client.put, f"{MODELS}/strict")
            wait_until(lambda: client.put(f"{MODELS}/strict").status_code == 409)
            assert client.get("/readyz").status_code == 200
            assert client.post("/v1/classify", files={"clip": clip}).status_code == 200
            given_up = hanging.result()
            assert given_up.status_code == 504
            assert problem(given_up)["type"] == "urn:scmrl:error:load-timeout"
            assert "goes on" in problem(given_up)["detail"]
            assert client.put(f"{MODELS}/avdigits").status_code == 200
            assert client.put(f"{MODELS}/strict").status_code == 409, "its thread hangs still"
        finally:
            go_on.set()
    wait_until(lambda: client.put(f"{MODELS}/strict").status_code == 200)


def test_twelve_reloads_at_once_drop_no_request(client: httpx.Client, clip: bytes) -> None:
    with ThreadPoolExecutor(16) as pool:
        loads = [pool.submit(client.put, f"{MODELS}/avdigits") for _ in range(12)]
        asked = [pool.submit(client.post, "/v1/classify", files={"clip": clip}) for _ in range(8)]
        assert {one.result().status_code for one in asked} == {200}
        codes = [one.result().status_code for one in loads]
    assert set(codes) <= {200, 409}
    assert 200 in codes
