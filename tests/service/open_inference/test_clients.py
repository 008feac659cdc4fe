"""Clients that others wrote, unchanged: Triton's and KServe's, each in a process of its own.

Both declare the same messages, so one process cannot import both. They may be installed in another
environment, whose Python is INFERENCE_CLIENTS_PYTHON.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.service.checkpoints import LABELS, SPECS, STEPS
from tests.service.running_server import running

pytestmark = pytest.mark.slow

PYTHON = os.environ.get("INFERENCE_CLIENTS_PYTHON", sys.executable)
WITHIN_S = 120


@cache
def is_installed(package: str) -> bool:
    command = f"import importlib.util as u; raise SystemExit(u.find_spec({package!r}) is None)"
    return subprocess.run([PYTHON, "-c", command], check=False).returncode == 0


def run(script: str, *arguments: object) -> dict[str, Any]:
    """What a script in this folder prints."""
    command = [PYTHON, Path(__file__).with_name(script), *map(str, arguments)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=WITHIN_S, env=environment
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert isinstance(answers, dict)
    return answers


def needs(package: str) -> None:
    if not is_installed(package):
        pytest.skip(f"needs {package}, which {PYTHON} has not: see docs/inference-protocol.md")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def both(weights: Path) -> Iterator[tuple[httpx.Client, str]]:
    """A client of a service over REST, and the address of its gRPC."""
    pytest.importorskip("grpc", reason="needs the extra grpc")
    port = free_port()
    with running(weights, grpc_port=port) as client:
        yield client, f"127.0.0.1:{port}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, clip: bytes) -> Path:
    """What the scripts send: a clip, and preprocessed streams of two."""
    path = tmp_path_factory.mktemp("sent")
    (path / "clip").write_bytes(clip)
    random = np.random.default_rng(0)
    for name, steps in (("audio", 1), ("visual", STEPS)):
        shape = (2, steps, SPECS[name].channels, *SPECS[name].size)
        np.save(path / f"{name}.npy", random.normal(0, 1, shape).astype("<f4"))
    return path


def logits(service: httpx.Client, clip: bytes) -> list[float]:
    """Those of the form."""
    data = {"steps": "3", "attention": "none"}
    answer = service.post("/v1/classify", files={"clip": clip}, data=data).json()
    terms = answer["contributions"].values()
    return [sum(term[label] for term in terms) for label in LABELS]


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_tritons_client(
    transport: str, request: pytest.FixtureRequest, clip: bytes, folder: Path
) -> None:
    needs("tritonclient")
    service, grpc_address = request.getfixturevalue("both")
    addresses = {"http": str(service.base_url).removeprefix("http://"), "grpc": grpc_address}
    answers = run("triton_client.py", transport, addresses[transport], folder)
    states = [answers[name] for name in ("live", "ready", "model", "other")]
    assert states == [True, True, True, False]
    assert answers["server"]["name"] == "scmrl"
    metadata = service.get("/v2/models/avdigits").json()
    for kind in ("inputs", "outputs"):
        shapes = [[int(size) for size in each["shape"]] for each in answers["metadata"][kind]]
        assert shapes == [each["shape"] for each in metadata[kind]]
    assert answers["config"]["max_batch_size"] == 64
    assert answers["config"]["input"][0]["data_type"] == "TYPE_STRING"
    assert [each["name"] for each in answers["index"]] == ["avdigits", "strict"]
    assert answers["id"] == "mine"
    assert answers["label"][0] in LABELS
    for row in answers["logits"]:
        assert row == pytest.approx(logits(service, clip), abs=1e-4)
    assert np.array(answers["contributions"]).shape == (2, 3, len(LABELS))
    assert np.array(answers["map"]).ndim == 3
    assert len(answers["top"]) == 3
    best = np.array(answers["contributions"])[0].sum(0).argmax()
    assert answers["top"][0].endswith(f":{best}:{LABELS[best]}")
    status, message = answers["error"]
    assert status == {"http": "422", "grpc": "StatusCode.INVALID_ARGUMENT"}[transport]
    assert "No such output: 'colour'" in message


def test_kserves_clients(request: pytest.FixtureRequest, clip: bytes, folder: Path) -> None:
    needs("kserve")
    service, grpc_address = request.getfixturevalue("both")
    answers = run("kserve_client.py", service.base_url, grpc_address, folder)
    rest, grpc = answers["rest"], answers["grpc"]
    assert [rest[name] for name in ("live", "ready", "model", "other")] == [True, True, True, False]
    assert [grpc[name] for name in ("live", "ready", "model")] == [True, True, True]
    for answer in (rest["binary"], rest["json"], grpc["binary"]):
        assert answer[0] == pytest.approx(logits(service, clip), abs=1e-4)
    assert (rest["error"][0], grpc["error"][0]) == (415, "INVALID_ARGUMENT")
    for _, message in (rest["error"], grpc["error"]):
        assert "mp4, mov, webm" in message
