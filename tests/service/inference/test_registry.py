"""Which checkpoints are served, and the messages where one cannot be."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from model.checkpoint import Measurement
from model.config import EnginePath, Precision
from service.device_link.connection import DeviceLost
from service.errors import Error, Problem, StartupError
from service.inference import model_loader, served_model, startup
from service.inference.model_server import ModelServer
from service.inference.served_model import ServedModel
from service.runtime import garbage_collection
from service.settings import Settings
from tests.service import checkpoints
from tests.service.integration.test_refusals import problem
from tests.service.running_server import running, statuses

pytestmark = pytest.mark.slow


@pytest.fixture
def copied(weights: Path, tmp_path: Path) -> Path:
    """Checkpoints that a test may damage."""
    return Path(shutil.copytree(weights, tmp_path / "weights"))


def damage(folder: Path) -> None:
    """Change one byte of the weights."""
    file = folder / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def refused(**settings: object) -> str:
    """Return the message of a service that does not start with these settings."""
    models = ModelServer(Settings(**settings))  # type: ignore[arg-type]
    registry = models.registry
    with pytest.raises(StartupError) as caught:
        models.startup.load_default()
    models.stop()
    assert models.not_ready_reason() is not None
    assert registry.status(registry.default_name) == "failed"
    with pytest.raises(Problem) as raised:
        registry.get(registry.default_name)
    assert raised.value.error is Error.MODEL_FAILED
    return str(caught.value)


def test_weights_that_are_not_the_cards_are_refused_by_file_and_field(copied: Path) -> None:
    damage(copied / "avdigits")
    message = refused(models=copied)
    assert str(copied / "avdigits" / "card.json") in message
    assert "sha256" in message


def test_a_card_that_makes_no_sense_is_refused_by_file_and_field(copied: Path) -> None:
    file = copied / "avdigits" / "card.json"
    card = json.loads(file.read_text())
    card["config"]["heads"] = 5
    file.write_text(json.dumps(card))
    message = refused(models=copied)
    assert str(file) in message
    assert "heads 5" in message


def test_a_default_that_is_not_there_is_refused_by_setting_with_what_is(copied: Path) -> None:
    message = refused(models=copied, default_model="nobody")
    assert str(copied / "nobody" / "card.json") in message
    assert "avdigits, strict" in message
    assert "--default-model" in message


def test_a_folder_that_is_not_there_is_refused_by_setting(tmp_path: Path) -> None:
    message = refused(models=tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in message
    assert "SCMRL_MODELS" in message
    assert "the folder has no checkpoints" in refused(models=tmp_path)


def test_a_device_that_is_not_there_is_refused_by_name(weights: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("CUDA is there")
    message = refused(models=weights, device="cuda")
    assert "device cuda" in message
    assert "no CUDA" in message


def test_a_broken_checkpoint_beside_the_default_leaves_it_served(
    copied: Path, clip: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    damage(copied / "strict")
    checkpoints.save(copied / "third", seed=3, name="third")
    (copied / "no-card").mkdir()
    with running(copied) as client:
        assert statuses(client) == {"avdigits": "ready", "strict": "failed", "third": "ready"}
        assert client.get("/readyz").status_code == 200
        assert client.post("/v1/classify", files={"clip": clip}).status_code == 200
        third = client.post("/v1/models/third/classify", files={"clip": clip})
        assert third.json()["model"]["name"] == "third"
        broken = client.post("/v1/models/strict/classify", files={"clip": clip})
        assert broken.status_code == 503
        assert problem(broken)["type"] == "urn:scmrl:error:model-failed"
        assert "Retry-After" not in broken.headers, "it will not get better"
        assert client.get("/v1/models/strict").status_code == 503
    assert f"{copied / 'strict' / 'card.json'}: sha256" in caplog.text


def test_the_default_is_the_one_that_is_set_and_comes_first(weights: Path, clip: bytes) -> None:
    with running(weights, default_model="strict") as client:
        assert list(statuses(client)) == ["strict", "avdigits"]
        answer = client.post("/v1/classify", files={"clip": clip}).json()
        assert answer["model"]["name"] == "strict"


@pytest.mark.parametrize(("losses", "status"), [(1, "ready"), (100, "failed")])
def test_a_checkpoint_is_loaded_again_where_a_device_was_lost_at_the_start(
    losses: int, status: str, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for wait in ("_DELAY_S", "_RETRY_S"):
        monkeypatch.setattr(startup, wait, 0.0)
    remaining = [DeviceLost("its process has ended")] * losses

    def load(folder: Path, *others: Any) -> ServedModel:
        if folder.name == "strict" and remaining:
            raise remaining.pop()
        return served_model.load(folder, *others)

    monkeypatch.setattr(model_loader, "load", load)
    models = ModelServer(Settings(models=weights, compile="off"))
    models.startup.load_default()
    models.startup.load_others()
    models.stop()
    assert models.registry.status("strict") == status
    assert len(remaining) == max(0, losses - startup._MAX_LOSSES)


@pytest.mark.parametrize(("precision", "path"), [("int8", "fused-int8"), ("float16", "fused")])
def test_a_precision_is_taken_where_the_card_has_its_accuracy_and_the_device_has_it(
    precision: Precision, path: EnginePath, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    measured = Measurement(what="accuracy", value=0.9, conditions="a test", precision=precision)
    checkpoints.save(tmp_path / "avdigits", accuracy=(measured,))
    checkpoints.save(tmp_path / "unmeasured", name="unmeasured")
    models = ModelServer(Settings(models=tmp_path, device="cpu", precision=precision, compile="on"))
    models.startup.load_default()
    models.startup.load_others()
    models.stop()
    paths = {name: model.engines[0].path for name, model in models.registry.ready.items()}
    assert paths == {"avdigits": path, "unmeasured": "fused"}
    assert "unmeasured runs in float32" in caplog.text
    refused = "float16 is not used on cpu: only CUDA devices have it" in caplog.text
    assert refused == (precision == "float16")
    assert ("the network on cpu runs in float32 instead of float16" in caplog.text) == refused


def test_the_old_network_of_a_reloaded_checkpoint_is_freed(weights: Path) -> None:
    models = ModelServer(Settings(models=weights, compile="off"))
    models.startup.load_default()
    garbage_collection.freeze()  # as a service does that has started
    old = weakref.ref(models.registry.get("avdigits").engines[0])
    models.reloads.load("avdigits")
    assert old() is None
    models.stop()
    assert models.registry.get("avdigits").card.name == "avdigits"
