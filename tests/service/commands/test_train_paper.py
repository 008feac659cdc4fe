"""The paper's tasks from the command line: trained, measured and served by short commands."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from model import checkpoint
from model.checkpoint.published_tasks import PUBLISHED_TASKS
from model.config import Config
from service.classification.local_classifier import LocalClassifier
from service.classification.options import Options
from service.classification.upload_fields import InputFiles
from tests.model.checkpoint.published_files import ARGUMENTS, theirs, write
from tests.model.media.events.event_files import npz
from tests.model.networks import lively
from tests.model.training.paper.data_folders import crema_d, mnistdvs_ntidigits, urbansound8k_av
from tests.service.commands.test_cli import scmrl

pytestmark = pytest.mark.slow

SMALL = ("--epochs", 1, "--batch", 4, "--channels", 16, "--steps", 1, "--device", "cpu")


def test_crema_d_is_trained_measured_and_served(tmp_path: Path) -> None:
    data, out = crema_d(tmp_path / "data"), tmp_path / "runs" / "crema-d"
    arguments = ("train", "crema-d", "--data", data, "--out", out, *SMALL)
    message = scmrl(*arguments, code=2).stderr
    assert "missing file (738)" in message
    assert "is in the published test set, and not in the folder" in message
    assert not (out / "last.pt").exists()
    shown = scmrl(*arguments, "--skip-faulty")
    assert "ANG 4, DIS 3, FEA 4, HAP 4, NEU 4, SAD 4; train 17, test 6" in (
        shown.stderr.replace("\n", " ")
    )
    best = out / "best"
    scmrl("evaluate", best, "--out", tmp_path / "figures", "--write-card", "--device", "cpu",
          "--curve-clips", 2)  # fmt: skip
    counts = {m.what: m.n for m in checkpoint.read_card(best).accuracy}
    assert counts["accuracy, both streams"] == 6
    name = "1060_DFA_ANG_XX"
    files = InputFiles(
        video=(data / "VideoFlash" / f"{name}.flv").read_bytes(),
        audio=(data / "AudioWAV" / f"{name}.wav").read_bytes(),
    )
    answer = LocalClassifier(best, "cpu").classify(files, Options())
    assert [each.used for each in answer.streams.values()] == [True, True]
    labels = {each.label for each in answer.probabilities}
    assert labels == {"ANG", "DIS", "FEA", "HAP", "NEU", "SAD"}


def test_urbansound8k_av_is_trained_measured_and_served(tmp_path: Path) -> None:
    data, out = urbansound8k_av(tmp_path / "data"), tmp_path / "runs" / "urbansound8k-av"
    shown = scmrl("train", "urbansound8k-av", "--data", data, "--out", out, *SMALL)
    assert "street_music 4; train 30, test 10" in shown.stderr.replace("\n", " ")
    best = out / "best"
    scmrl("evaluate", best, "--out", tmp_path / "figures", "--write-card", "--device", "cpu",
          "--curve-clips", 2)  # fmt: skip
    counts = {m.what: m.n for m in checkpoint.read_card(best).accuracy}
    assert counts["accuracy, both streams"] == 10
    name = "siren/100-8-0-0"
    files = InputFiles(
        frames=[(data / "Dataset_v3_vision" / f"{name}.jpg").read_bytes()],
        audio=(data / "Dataset_v3_sound" / f"{name}.wav").read_bytes(),
    )
    answer = LocalClassifier(best, "cpu").classify(files, Options())
    assert "air_conditioner" in {each.label for each in answer.probabilities}
    assert len(answer.probabilities) == 10


def test_mnistdvs_ntidigits_is_trained_measured_and_served(tmp_path: Path) -> None:
    data, out = mnistdvs_ntidigits(tmp_path / "data"), tmp_path / "runs" / "events"
    arguments = ("train", "mnistdvs-ntidigits", "--data", data, "--out", out, *SMALL)
    assert "recordings at scale 4 are there; absent are 0005" in scmrl(*arguments, code=2).stderr
    shown = scmrl(*arguments, "--skip-faulty").stderr.replace("\n", " ")
    assert 'pairs: train 20, test 20; "oh" left out: 5' in shown
    best = out / "best"
    scmrl("evaluate", best, "--out", tmp_path / "figures", "--write-card", "--device", "cpu",
          "--curve-clips", 2)  # fmt: skip
    counts = {m.what: m.n for m in checkpoint.read_card(best).accuracy}
    assert counts["accuracy, both streams"] == 20
    recording = data / "grabbed_data7" / "scale4" / "mnist_7_scale04_0001.aedat"
    with h5py.File(data / "n-tidigits.hdf5") as file:
        channel = np.asarray(file["test_addresses/tman-aa-7"]).astype(np.int64)
        time_us = (np.asarray(file["test_timestamps/tman-aa-7"]) * 1e6).astype(np.int64)
    files = InputFiles(events=recording.read_bytes(), audio_events=npz(channel=channel, t=time_us))
    answer = LocalClassifier(best, "cpu").classify(files, Options())
    assert answer.streams["visual"].events == 900
    assert {each.label for each in answer.probabilities} == set("0123456789")


@pytest.mark.parametrize("streams", [("audio", "visual"), ("visual",), ("audio",)])
def test_an_imported_checkpoint_is_measured_on_the_published_test_set(
    tmp_path: Path, streams: tuple[str, ...]
) -> None:
    data, out = urbansound8k_av(tmp_path / "data"), tmp_path / "imported"
    task = PUBLISHED_TASKS["urbansound8k-av"]
    shapes = {name: task.streams[name] for name in streams}
    config = Config(streams=shapes, classes=10, embed_dim=8, heads=4)
    modality = "-".join(streams)
    arguments = ARGUMENTS | {"dataset": task.dataset, "modality": modality}
    file = write(tmp_path / "model_best.pth.tar", theirs(lively(config)), arguments)
    scmrl("import", file, "--task", "urbansound8k-av", "--out", out)
    scmrl("evaluate", out, "--data", data, "--out", tmp_path / "figures", "--write-card",
          "--device", "cpu", "--curve-clips", 1)  # fmt: skip
    card = checkpoint.read_card(out)
    assert list(card.streams) == list(streams)
    measured = {m.what: m for m in card.accuracy}
    both = measured[f"accuracy, {'both streams' if len(streams) == 2 else 'one stream'}"]
    assert both.n == 10
    # The published training keeps the epoch that is best on the test set.
    expected = "test clips of UrbanSound8K-AV, as published, which chose the epoch"
    assert expected in both.conditions
