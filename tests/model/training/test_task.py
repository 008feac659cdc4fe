"""A task is a folder and a row in TASKS: a second one is trained and evaluated as avdigits is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from model import checkpoint
from model.checkpoint import CheckpointError
from model.training.avdigits.task import AVDigits
from model.training.checkpoint_task import task_of_card
from model.training.evaluate import evaluate
from model.training.evaluation_options import EvaluateOptions
from model.training.options import OptionsError, TrainOptions
from model.training.schedule import Schedule
from model.training.task import DataError
from model.training.tasks import TASKS
from model.training.train import Trainer, train
from service.commands import evaluate as evaluate_command
from service.commands import train as train_command
from tests.model.training.noise_task import Noise

pytestmark = [pytest.mark.usefixtures("one_core"), pytest.mark.slow]

STREAMS = ("near", "far", "camera")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noise")
    (folder / "levels.txt").write_text("0 dB")
    return folder


@pytest.fixture
def options(data: Path, tmp_path: Path) -> TrainOptions:
    return TrainOptions.of(
        Noise(), data, out=tmp_path / "run", epochs=2, clips=8, batch=4, embed_dim=16, steps=2,
        development_clips=10,
    )  # fmt: skip


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "noise", Noise)


@pytest.mark.usefixtures("registered")
def test_a_second_task_is_trained_and_evaluated(options: TrainOptions, tmp_path: Path) -> None:
    best = train(options)
    network, card = checkpoint.load(best)
    assert (card.name, card.labels) == ("noise", Noise.labels)
    assert tuple(network.config.streams) == STREAMS
    assert card.streams == dict(Noise.specs)
    assert card.data == Noise().sources()
    assert card.training is not None
    assert card.training.command == "scmrl train noise"
    assert card.training.notes["noise"] == "drawn anew"
    header, *rows = (options.out / "metrics.csv").read_text().splitlines()
    assert header == "epoch,learning_rate,loss,alignment,fused,near,far,camera"
    assert len(rows) == 2

    measured = evaluate(
        EvaluateOptions(
            best, options.data, tmp_path / "figures", clips=10, curve_clips=4, attention_clips=3,
            device="cpu", write_card=True,
        ),
        Console(quiet=True),
    )  # fmt: skip
    assert checkpoint.load(best)[1].accuracy == measured.accuracy
    by_name = {m.what: m for m in measured.accuracy}
    assert by_name["accuracy, all streams"].n == 10
    for title in Noise.titles.values():
        assert f"accuracy, {title} alone" in by_name
        assert f"accuracy, all streams, noise on the {title}" in by_name
    assert by_name["attention: mass over share"].conditions.startswith("camera map")
    of_clips = [m for m in measured.accuracy if not m.what.endswith("answered above 0.5")]
    assert all("clips of noise" in m.conditions for m in of_clips)


def test_a_run_of_a_second_task_is_resumed(options: TrainOptions, tmp_path: Path) -> None:
    trainer = Trainer(options)
    trainer.save(trainer.train_epoch(0, Console(quiet=True)))
    train(replace(options, resume=True))
    whole = replace(options, out=tmp_path / "whole")
    train(whole)
    resumed, straight = (
        torch.load(run.out / "last.pt", weights_only=True)["network"] for run in (options, whole)
    )
    assert all(torch.equal(x, straight[name]) for name, x in resumed.items())
    other = replace(options, resume=True, task=Noise(gain=2.0))
    with pytest.raises(ValueError, match=r"--gain 2\.0, but the run has 1\.0;"):
        train(other)


def test_batches_have_the_streams_that_modality_dropout_names(options: TrainOptions) -> None:
    schedule = Schedule(replace(options, epochs=100), 10)
    drawn = [schedule.plan(step).streams for step in range(1000)]
    assert set(drawn) == {STREAMS, ("near", "camera")}
    assert drawn.count(STREAMS) / 1000 == pytest.approx(0.5, abs=0.05)
    for dropout in ({"near+near": 1.0}, {"near+touch": 1.0}, {"both": 1.0}):
        with pytest.raises(OptionsError, match="--modality-dropout"):
            replace(options, modality_dropout=dropout)


def test_missing_data_of_a_second_task_is_named(options: TrainOptions, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"levels\.txt: not found"):
        train(replace(options, data=tmp_path))


def test_weights_of_another_task_are_not_started_from(
    options: TrainOptions, avdigits_folder: Path, tmp_path: Path
) -> None:
    noise = train(replace(options, epochs=1))
    task = AVDigits(synthetic_takes=0)
    digits = TrainOptions.of(
        task, avdigits_folder, out=tmp_path / "digits", init_from=noise, embed_dim=16,
        development_clips=10,
    )  # fmt: skip
    message = "white, pink, brown are not those of a known task; avdigits has 0, 1, 2"
    with pytest.raises(CheckpointError, match=message):
        train(digits)


@pytest.mark.usefixtures("registered")
def test_the_task_of_a_checkpoint_is_known_by_its_labels_and_streams(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    card = checkpoint.load(train(replace(options, epochs=1)))[1]
    assert task_of_card(card, tmp_path) == Noise()
    monkeypatch.delitem(TASKS, "noise")
    with pytest.raises(CheckpointError, match=r"training\.task: noise is no task; there are avd"):
        task_of_card(card, tmp_path)
    assert card.training is not None
    unnamed = card.training.model_copy(update={"task": None})  # as cards before it was recorded
    card = card.model_copy(update={"training": unnamed})
    with pytest.raises(CheckpointError, match=r"labels: white, .* a known task; avdigits has 0"):
        task_of_card(card, tmp_path)


# --- the command line ----------------------------------------------------------------------------


def scmrl(*arguments: object, code: int = 0) -> Result:
    app = typer.Typer(rich_markup_mode="markdown")
    train_command.register(app)
    evaluate_command.register(app)
    environment = {"COLUMNS": "200", "TERM": "dumb"}
    result = CliRunner().invoke(app, [str(x) for x in arguments], env=environment)
    assert result.exit_code == code, result.output
    return result


@pytest.mark.usefixtures("registered")
def test_a_second_task_has_a_command_with_its_options(data: Path, tmp_path: Path) -> None:
    stdout = scmrl("train", "noise", "--help").output
    for expected in ("Noise, for a test.", "Folder of levels.txt.", "--gain", "runs/noise"):
        assert expected in stdout
    assert "all=0.5, near+camera=0.5" in stdout
    assert "--synthetic-takes" not in stdout
    out = tmp_path / "run"
    scmrl("train", "noise", "--data", data, "--out", out, "--epochs", 1, "--clips", 4, "--batch", 2,
          "--channels", 16, "--steps", 1, "--development-clips", 10, "--gain", 0.5,
          "--lr-multiplier", "far=0.5")  # fmt: skip
    state = torch.load(out / "last.pt", weights_only=True)["settings"]
    assert (state["task"], state["gain"], state["lr_multiplier"]) == ("noise", "0.5", "far=0.5")
    assert np.loadtxt(out / "metrics.csv", delimiter=",", skiprows=1).shape == (8,)
    figures = tmp_path / "figures"
    stdout = scmrl("evaluate", out / "best", "--data", data, "--out", figures, "--clips", 10,
                  "--curve-clips", 1, "--attention-clips", 1, "--device", "cpu").output  # fmt: skip
    assert "accuracy, camera alone" in stdout
    message = scmrl("train", "noise", "--data", data, "--gain", 11, code=2).stderr
    assert "--gain" in message


def test_evaluating_a_checkpoint_of_another_task_says_so(
    options: TrainOptions, avdigits_folder: Path, tmp_path: Path
) -> None:
    best = train(replace(options, epochs=1))
    assert json.loads((best / "card.json").read_text())["name"] == "noise"
    message = scmrl("evaluate", best, "--data", avdigits_folder, code=2).stderr
    assert "training.task: noise is no task; there are avdigits, " in message
