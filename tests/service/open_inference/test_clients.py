"""Clients that others wrote, unchanged: Triton's and KServe's, each in a process of its own.

Both declare the same messages, so one process cannot import both. They may be installed in another
environment, whose Python is INFERENCE_CLIENTS_PYTHON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.service.checkpoints import LABELS, SPECS, STEPS

PYTHON = os.environ.get("INFERENCE_CLIENTS_PYTHON", sys.executable)
WITHIN_S = 120


@cache
def is_installed(package: str) -> bool:
    command = f"import importlib.util as u; raise SystemExit(u.find_spec({package!r}) is None)"
    return subprocess.run([PYTHON, "-c", command], check=False).returncode == 0


def run(script: str, package: str, *arguments: object) -> dict[str, Any]:
    """What a script in this folder prints."""
    if not is_installed(package):
        pytest.skip(f"needs {package}, which {PYTHON} has not (pip install {package}[http,grpc])")
    command = [PYTHON, Path(__file__).with_name(script), *map(str, arguments)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=WITHIN_S, env=environment
    )
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert isinstance(answers, dict)
    return answers


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    """Preprocessed streams of two clips."""
    random = np.random.default_rng(0)
    shapes = {"audio": 1, "visual": STEPS}
    return {
        name: random.normal(0, 1, (2, steps, SPECS[name].channels, *SPECS[name].size)).astype("<f4")
        for name, steps in shapes.items()
    }


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, clip: bytes, tensors: dict[str, np.ndarray]
) -> Path:
    """What the scripts send."""
    path = tmp_path_factory.mktemp("sent")
    (path / "clip").write_bytes(clip)
    for name, values in tensors.items():
        np.save(path / f"{name}.npy", values)
    return path


def logits(service: httpx.Client, clip: bytes) -> list[float]:
    """Those of the form."""
    data = {"steps": "3", "attention": "none"}
    answer = service.post("/v1/classify", files={"clip": clip}, data=data).json()
    terms = answer["contributions"].values()
    return [sum(term[label] for term in terms) for label in LABELS]


def check_triton(service: httpx.Client, answers: dict[str, Any], clip: bytes) -> None:
    """Check what a client of Triton's got, over either transport."""
    states = [answers[name] for name in ("live", "ready", "model", "other")]
    assert states == [True, True, True, False]
    assert answers["server"]["name"] == "scmrl"
    metadata = service.get("/v2/models/avdigits").json()
    assert {each["name"] for each in answers["metadata"]["inputs"]} == {
        each["name"] for each in metadata["inputs"]
    }
    assert answers["config"]["max_batch_size"] == 64
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
    assert "No such output: 'colour'" in answers["error"][1]


def test_tritons_http_client(service: httpx.Client, clip: bytes, folder: Path) -> None:
    answers = run("triton_http.py", "tritonclient", service.base_url, folder)
    check_triton(service, answers, clip)
    assert answers["error"][0] == "422"


def test_kserves_rest_client(service: httpx.Client, clip: bytes, folder: Path) -> None:
    answers = run("kserve_rest.py", "kserve", service.base_url, folder)
    states = [answers[name] for name in ("live", "ready", "model", "other")]
    assert states == [True, True, True, False]
    assert answers["name"] == "avdigits"
    for name in ("binary", "json"):
        assert answers[name][0] == pytest.approx(logits(service, clip), abs=1e-4)
    assert answers["error"][0] == 415
    assert "mp4, mov, webm" in answers["error"][1]
