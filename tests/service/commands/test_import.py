"""`scmrl import`: from a file of the published training to an answer over HTTP."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from model.checkpoint import load
from model.checkpoint.published_tasks import PUBLISHED_TASKS
from model.config import Config
from model.engine.inputs import encode_batch
from model.media.reader import read_clip
from model.preprocess.prepare import prepare
from tests.model.checkpoint.published_files import ARGUMENTS, UNUSED, theirs, write
from tests.model.checkpoint.test_torch_file import Calls
from tests.model.networks import lively
from tests.service.commands.test_cli import scmrl
from tests.service.conftest import CLIPS
from tests.service.running_server import running

pytestmark = pytest.mark.slow

SEVEN = CLIPS / "digit-7.webm"
TASK = PUBLISHED_TASKS["urbansound8k-av"]
CONFIG = Config(streams=TASK.streams, classes=10, embed_dim=8, heads=4, mlp_ratio=2.0, alpha=0.75)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of the published training."""
    arguments = ARGUMENTS | {"dataset": TASK.dataset}
    return write(tmp_path / "model_best.pth.tar", theirs(lively(CONFIG)) | UNUSED, arguments)


def test_an_imported_checkpoint_is_served_as_it_is(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "weights" / "sounds"
    printed = scmrl("import", file, "--task", "urbansound8k-av", "--out", out).stdout
    for part in (
        "audio and visual: 8 channels, 4 heads, attention spatial-temporal",
        "weights that take no part: av_attention (1)",
        "not used of the file: arch, optimizer, version",
        "check forward: logits up to",
        "order of the labels: the published training numbers the classes alphabetically",
        f"next: scmrl serve --models {out.parent}",
    ):
        assert part in printed
    network, card = load(out)
    clip = read_clip(SEVEN.read_bytes(), card.steps)
    prepared = prepare(card.streams, clip.sound, clip.pictures, card.steps)
    inputs = encode_batch([prepared], card.encoding, card.steps)
    repeated = {name: x.expand(card.steps, *x.shape[1:]) for name, x in inputs.items()}
    with torch.inference_mode():
        expected = network(repeated).logits[0].softmax(0)
    with running(out.parent) as client:
        posted = {"clip": SEVEN.read_bytes()}
        answer = client.post("/v1/models/sounds/classify", files=posted).json()
    probabilities = {row["label"]: row["probability"] for row in answer["probabilities"]}
    assert probabilities == pytest.approx(dict(zip(TASK.labels, expected.tolist(), strict=True)))
    assert answer["steps"] == 3


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def test_an_imported_checkpoint_of_events_is_served(tmp_path: Path) -> None:
    task = PUBLISHED_TASKS["mnistdvs-ntidigits"]
    config = Config(streams=task.streams, classes=10, embed_dim=8, heads=4, mlp_ratio=2.0)
    arguments = ARGUMENTS | {"dataset": task.dataset, "event_size": 28}
    file = write(tmp_path / "model_best.pth.tar", theirs(lively(config)), arguments)
    out = tmp_path / "weights" / "digits"
    scmrl("import", file, "--task", "mnistdvs-ntidigits", "--out", out)
    rng = np.random.default_rng(0)
    times = np.sort(rng.integers(0, 1_000_000, 4000))
    x, y = rng.integers(40, 90, (2, 4000))
    recording = npz(x=x, y=y, t=times, p=rng.integers(0, 2, 4000))
    heard = npz(channel=rng.integers(0, 64, 4000), t=times)
    with running(out.parent) as client:
        posted = {"events": ("seen.npz", recording), "audio_events": ("heard.npz", heard)}
        answer = client.post("/v1/models/digits/classify", files=posted).json()
    assert {row["label"] for row in answer["probabilities"]} == set("0123456789")
    assert all(answer["streams"][name]["used"] for name in ("audio", "visual"))
    assert answer["steps"] == 3


def test_a_folder_that_is_there_is_not_written_to(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "there"
    out.mkdir()
    (out / "card.json").write_text("mine")
    message = scmrl("import", file, "--task", "urbansound8k-av", "--out", out, code=2).stderr
    assert "is there already" in message
    assert (out / "card.json").read_text() == "mine"
    name = tmp_path / os.fsdecode(b"caf\xe9")
    message = scmrl("import", file, "--task", "urbansound8k-av", "--out", name, code=2).stderr
    assert "--out caf\\xe9: the name of a checkpoint must be in UTF-8" in message


def test_errors_say_why_a_file_cannot_be_imported_and_nothing_is_written(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out"
    wrong = scmrl("import", file, "--task", "crema-d", "--out", out, code=2).stderr
    assert "args.dataset: is 'UrbanSound8K', but --task crema-d is 'CREMAD'" in wrong
    write(file, {"a": torch.zeros(1)}, args=Calls(os.system, "touch it-ran"))
    hostile = scmrl("import", file, "--task", "crema-d", "--out", out, code=2).stderr
    assert "asks for posix.system, which a checkpoint does not need; nothing was run" in hostile
    assert not (tmp_path / "it-ran").exists()
    assert not out.exists()
