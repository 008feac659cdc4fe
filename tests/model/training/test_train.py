"""Training is repeatable, survives a kill, and ends cleanly."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from model import checkpoint
from model.network import SCMRL
from model.training.avdigits.task import AVDigits
from model.training.epochs import Accuracies
from model.training.options import OptionsError, TrainOptions
from model.training.task import DataError
from model.training.train import Trainer, train

ROOT = Path(__file__).parents[3]

pytestmark = [pytest.mark.usefixtures("one_core"), pytest.mark.slow]


@pytest.fixture
def options(avdigits_folder: Path, tmp_path: Path) -> TrainOptions:
    return TrainOptions.of(
        AVDigits(synthetic_takes=0), avdigits_folder, out=tmp_path / "run", epochs=2, clips=24,
        batch=8, embed_dim=16, steps=2, development_clips=10, workers=0,
    )  # fmt: skip


def weights(run: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(run / "last.pt", weights_only=True)["network"]
    return state


def rows(run: Path) -> list[dict[str, str]]:
    path = run / "metrics.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same(first: Path, second: Path) -> None:
    theirs = weights(second)
    for name, tensor in weights(first).items():
        assert torch.equal(tensor, theirs[name]), name


def test_a_run_with_clips_of_no_class_trains_and_says_so_in_its_card(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.training.out_of_distribution.outlier_exposure._OTHER_WORDS", 4)
    _, card = checkpoint.load(train(replace(options, outlier_share=0.5)))
    assert card.training is not None
    assert "0.5 of the clips are of no class" in card.training.notes["loss"]
    assert all(float(row["loss"]) > 0 for row in rows(options.out))  # NaN is not


def test_a_run_leaves_metrics_and_a_checkpoint_that_loads(options: TrainOptions) -> None:
    best = train(options)
    network, card = checkpoint.load(best)
    assert card.labels == tuple("0123456789")
    assert card.training is not None
    assert card.training.seed == options.seed
    assert {source.licence for source in card.data} >= {"CC BY-SA 3.0", "CC BY-SA 4.0"}
    assert network.config.embed_dim == 16
    assert [row["epoch"] for row in rows(options.out)] == ["1", "2"]
    assert list(options.out.glob("events.out.tfevents*"))


@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
def test_a_device_without_bfloat16_trains_in_float32(
    precision: str, options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.training.train.supports_bfloat16", lambda _: False)
    in_bfloat16: list[bool] = []
    forward: Callable[..., Any] = SCMRL.forward

    def recorded(self: SCMRL, *args: Any, **options: Any) -> Any:
        in_bfloat16.append(torch.is_autocast_enabled("cpu"))
        return forward(self, *args, **options)

    monkeypatch.setattr(SCMRL, "forward", recorded)
    train(replace(options, precision=precision, epochs=1, clips=8, settle_norms=1))
    assert in_bfloat16
    assert not any(in_bfloat16)


def test_the_seed_decides_the_weights(options: TrainOptions, tmp_path: Path) -> None:
    short = replace(options, epochs=1)
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        train(replace(short, out=tmp_path / name, seed=seed))
    assert_same(tmp_path / "a", tmp_path / "b")
    other = weights(tmp_path / "c")
    assert any(not torch.equal(x, other[name]) for name, x in weights(tmp_path / "a").items())


def test_the_loader_process_changes_nothing(options: TrainOptions, tmp_path: Path) -> None:
    short = replace(options, epochs=1)
    train(replace(short, out=tmp_path / "a"))
    train(replace(short, out=tmp_path / "b", workers=1))
    assert_same(tmp_path / "a", tmp_path / "b")


RUN = """
import os
os.cpu_count = lambda: 1
from dataclasses import replace
from pathlib import Path
import sys
from model.training.avdigits.task import AVDigits
from model.training.options import TrainOptions
from model.training.train import train
train(TrainOptions.of(AVDigits(synthetic_takes=0), Path(sys.argv[1]), out=Path(sys.argv[2]),
    epochs=3, clips=24, batch=8, embed_dim=16, steps=2, development_clips=10, workers=0))
"""


def kill_after_one_epoch(options: TrainOptions) -> None:
    """Start a run of three epochs in a process of its own and kill it after the first."""
    command = [sys.executable, "-c", RUN, str(options.data), str(options.out)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (options.out / "last.pt").exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL


def test_a_killed_run_resumes_to_the_same_weights(options: TrainOptions, tmp_path: Path) -> None:
    options = replace(options, epochs=3)
    kill_after_one_epoch(options)
    assert len(rows(options.out)) < 3
    train(replace(options, resume=True))
    whole = replace(options, out=tmp_path / "whole")
    train(whole)
    assert_same(options.out, whole.out)
    assert rows(options.out) == rows(whole.out)


def test_ctrl_c_ends_cleanly_with_the_best_so_far(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes in the first step of the second epoch."""
    train_step: Callable[..., Any] = Trainer.train_step

    def interrupted(run: Trainer, step: int, *batch: Any) -> Any:
        if run.epoch == 1:
            signal.raise_signal(signal.SIGINT)
        return train_step(run, step, *batch)

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # xdist ignores it
    try:
        best = train(options)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert best == options.out / "best"
    assert len(rows(options.out)) == 1
    network, _ = checkpoint.load(best)
    assert network.config.classes == 10


def test_only_the_streams_in_modality_dropout_are_trained(
    options: TrainOptions, tmp_path: Path
) -> None:
    for name, dropout in (("a", {"audio": 1.0}), ("b", {"visual": 1.0})):
        train(replace(options, out=tmp_path / name, epochs=1, modality_dropout=dropout))
    audio, visual = weights(tmp_path / "a"), weights(tmp_path / "b")
    first = "patch.{}.stages.0.norm.num_batches_tracked"
    assert audio[first.format("audio")] == visual[first.format("visual")] == 3
    assert audio[first.format("visual")] == visual[first.format("audio")] == 0


def test_frozen_norms_keep_their_statistics_and_the_rest_learns(
    options: TrainOptions, tmp_path: Path
) -> None:
    train(replace(options, out=tmp_path / "a", epochs=1))
    begun = replace(options, out=tmp_path / "b", epochs=1, init_from=tmp_path / "a" / "best")
    train(replace(begun, freeze_norms=True))
    before, after = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        if name.endswith(("running_mean", "running_var")):
            assert torch.equal(tensor, before[name]), name
    changed = "patch.audio.stages.1.conv.weight"
    assert not torch.equal(after[changed], before[changed])


def test_the_mean_of_the_last_epochs_is_saved_where_it_is_better(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[dict[str, torch.Tensor]] = []

    def accuracies(run: Trainer) -> Accuracies:
        measured.append({name: x.clone() for name, x in run.network.state_dict().items()})
        return Accuracies(0.1 * len(measured), {})

    monkeypatch.setattr("model.training.train.Trainer.measure", accuracies)
    best = train(replace(options, epochs=3, average=2))
    *_, second, third, mean = measured
    saved = checkpoint.load(best)[0].state_dict()
    assert len(measured) == 4
    for name in ("patch.visual.stages.0.conv.weight", "head.weight"):
        expected = (second[name] + third[name]) / 2
        torch.testing.assert_close(mean[name], expected)
        assert torch.equal(saved[name], mean[name])
        assert not torch.equal(second[name], third[name])


@pytest.mark.parametrize("average", [0, 2])
def test_without_a_choice_the_last_epoch_or_the_average_is_kept(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch, average: int
) -> None:
    measured: list[torch.Tensor] = []

    def worse(run: Trainer) -> Accuracies:
        measured.append(run.network.state_dict()["head.weight"].clone())
        return Accuracies(0.9 - 0.1 * len(measured), {})

    monkeypatch.setattr("model.training.train.Trainer.measure", worse)
    best = train(replace(options, epochs=3, average=average, select_by="last"))
    assert len(measured) == (4 if average else 3)
    assert torch.equal(checkpoint.load(best)[0].state_dict()["head.weight"], measured[-1])


def test_a_stream_with_a_smaller_learning_rate_moves_less(
    options: TrainOptions, tmp_path: Path
) -> None:
    one_step = replace(options, epochs=1, clips=8, modality_dropout={"all": 1.0})
    runs = {"none": 0.0, "slow": 1e-3, "fast": 1e-3}
    for name, rate in runs.items():
        slow = {"visual": 0.1, "head": 0.1} if name == "slow" else {}
        train(replace(one_step, out=tmp_path / name, learning_rate=rate, lr_multiplier=slow))
    begun, slow_run, fast = (weights(tmp_path / name) for name in runs)

    def moved(run: dict[str, torch.Tensor], name: str) -> float:
        return float((run[name] - begun[name]).abs().mean())

    for name in (
        "patch.visual.stages.0.conv.weight",
        "mlp.visual.expand.conv.weight",
        "head.weight",
    ):
        assert moved(slow_run, name) == pytest.approx(moved(fast, name) / 10, rel=0.1)
    name = "patch.audio.stages.0.conv.weight"
    assert moved(slow_run, name) == pytest.approx(moved(fast, name), rel=0.01)


def test_a_second_run_does_not_overwrite_the_first(options: TrainOptions) -> None:
    train(replace(options, epochs=1))
    with pytest.raises(OptionsError, match="--resume"):
        train(options)


def test_missing_data_is_named(options: TrainOptions, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"handwriting\.npz"):
        train(replace(options, data=tmp_path))
