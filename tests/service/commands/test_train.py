"""`scmrl train` and `scmrl evaluate` name what cannot be used, with exit code 2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from model import checkpoint
from model.config import Config, StreamConfig
from model.network import SCMRL
from tests.model.networks import lively
from tests.service import checkpoints
from tests.service.commands.test_cli import scmrl, train, training

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training(tmp_path_factory.mktemp("data") / "avdigits", rate=8000)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch."""
    out = tmp_path_factory.mktemp("runs") / "run"
    scmrl("train", "avdigits", "--data", data, "--out", out, *SMALL)
    return out


SMALL = (
    "--synthetic-takes", 0, "--epochs", 1, "--clips", 4, "--batch", 2, "--channels", 16,
    "--steps", 1, "--development-clips", 10,
)  # fmt: skip


def resumed(data: Path, run: Path, *more: object) -> str:
    return train(data, run, *SMALL, "--resume", *more)


@pytest.mark.parametrize(
    ("option", "value", "before"),
    [
        ("--alpha", "0.75", "0.5"),
        ("--learning-rate", "0.01", "0.003"),
        ("--channels", "32", "16"),
        ("--epochs", "3", "1"),
        ("--steps", "2", "1"),
        ("--seed", "5", "0"),
        ("--modality-dropout", "all=1.0", "all=0.2,visual=0.6,audio=0.2"),
        ("--lr-multiplier", "visual=0.1", "none"),
    ],
)
def test_a_run_is_not_resumed_with_other_settings(
    data: Path, run: Path, option: str, value: str, before: str
) -> None:
    message = resumed(data, run, option, value)
    assert f"{option} {value}, but the run has {before};" in message
    assert len(message.splitlines()) == 1


def test_a_run_that_is_whole_is_resumed_and_ends_at_once(data: Path, run: Path) -> None:
    printed = scmrl("train", "avdigits", "--data", data, "--out", run, *SMALL, "--resume").stdout
    assert f"the best checkpoint is in {run / 'best'}" in printed.replace("\n", "")


def test_a_folder_without_a_run_is_not_resumed(data: Path, run: Path, tmp_path: Path) -> None:
    assert "there is no run to resume" in resumed(data, tmp_path)
    (tmp_path / "file").write_text("no folder")
    assert "Not a directory" in resumed(data, tmp_path / "file")
    broken = Path(shutil.copytree(run, tmp_path / "broken"))
    whole = (broken / "last.pt").read_bytes()
    for damaged in (b"", b"not a state", whole[: len(whole) // 2]):
        (broken / "last.pt").write_bytes(damaged)
        assert f"{broken / 'last.pt'}: damaged, or not the state" in resumed(data, broken)


@pytest.mark.parametrize(
    "option",
    [
        ("--epochs", "0"), ("--epochs", "1000000000"), ("--clips", "1" + "0" * 30),
        ("--batch", "0"), ("--batch", "1"), ("--batch", "100000"), ("--channels", "17"),
        ("--channels", "1048576"), ("--alpha", "nan"), ("--alpha", "inf"), ("--alpha", "1e308"),
        ("--alpha", "-1"), ("--steps", "0"), ("--steps", "65"), ("--learning-rate", "nan"),
        ("--learning-rate", "inf"), ("--learning-rate", "-1"), ("--synthetic-takes", "-1"),
        ("--development-clips", "0"), ("--attention", "cross"), ("--fusion", "mean"),
        ("--encoding", "phase"), ("--precision", "float16"), ("--device", "tpu"),
        ("--select-by", "f1"), ("--patience", "-1"), ("--settle-norms", "-1"),
        ("--test-clips", "-1"),
        ("--development-clips", "1" + "0" * 12),
        ("--modality-dropout", "all=nan"), ("--lr-multiplier", "touch=0.1"),
        ("--lr-multiplier", "audio=-1"), ("--average", "-1"), ("--average", "99"),
        ("--seed", "-1"), ("--seed", "1" + "0" * 25), ("--workers", "-1"), ("--workers", "10000"),
        ("--seed", "one"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_an_option_of_train_out_of_range_is_named(
    data: Path, tmp_path: Path, option: tuple[str, str]
) -> None:
    message = train(data, tmp_path / "out", *option)
    assert option[0] in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["clips", "curve-clips", "attention-clips", "seed"])
@pytest.mark.parametrize("value", ["-1", "1" + "0" * 25, "x"])
def test_an_option_of_evaluate_out_of_range_is_named(
    weights: Path, data: Path, tmp_path: Path, name: str, value: str
) -> None:
    arguments = ("evaluate", weights / "avdigits", "--data", data, "--out", tmp_path / "figures")
    assert f"--{name}" in scmrl(*arguments, f"--{name}", value, code=2).stderr
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_folder_that_cannot_be_written_is_named(
    command: str, data: Path, weights: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    arguments = ("avdigits",) if command == "train" else (weights / "avdigits",)
    for out in (tmp_path / "file", tmp_path / "file" / "out", "/proc/out"):
        message = scmrl(command, *arguments, "--data", data, "--out", out, code=2).stderr
        assert message.startswith(f"scmrl: --out {out}: ")


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_all_faults_of_the_data_are_named_in_one_message(
    command: str, data: Path, weights: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    arguments = ("avdigits",) if command == "train" else (weights / "avdigits",)

    def refusal() -> str:
        out = ("--out", tmp_path / "out")
        message = str(scmrl(command, *arguments, "--data", folder, *out, code=2).stderr)
        assert message.count("\n") == 1
        return message

    for file in (folder / "speech").glob("3_somebody_*"):
        file.unlink()
    assert "speech/3_SPEAKER_*.wav: none of a speaker other than george" in refusal()
    for name in ("seven_somebody_1.wav", "12_somebody_1.wav"):
        (folder / "speech" / name).write_bytes(b"")
    message = refusal()
    assert "seven_somebody_1.wav: its name is not DIGIT_SPEAKER_TAKE.wav" in message
    assert "12_somebody_1.wav: its name is not" in message
    np.savez(folder / "handwriting.npz", images=np.zeros((10, 28, 28), np.uint8))
    assert "handwriting.npz: cannot be read: 'labels" in refusal()
    shutil.rmtree(folder)
    assert str(folder / "handwriting.npz") in refusal()
    folder.write_text("no folder")
    assert "Not a directory" in refusal()


def another_task(folder: Path, classes: int) -> Path:
    config = checkpoints.CONFIG.model_copy(update={"classes": classes})
    labels = tuple(f"event {index}" for index in range(classes))
    return checkpoints.save(folder, name="events", config=config, labels=labels)


@pytest.mark.parametrize("classes", [5, 10, 28])
def test_a_checkpoint_of_another_task_is_neither_evaluated_nor_trained_from(
    data: Path, tmp_path: Path, classes: int
) -> None:
    folder = another_task(tmp_path / "events", classes)
    for message in (
        scmrl("evaluate", folder, "--data", data, "--out", tmp_path / "figures", code=2).stderr,
        train(data, tmp_path / "out", *SMALL, "--init-from", folder),
    ):
        assert message.startswith(f"scmrl: {folder / 'card.json'}: labels: event 0, event 1, ")
        assert "are not those of a known task; avdigits has 0, 1, 2, " in message


def test_a_checkpoint_of_one_stream_is_not_evaluated(data: Path, tmp_path: Path) -> None:
    config = Config(
        streams={"visual": StreamConfig(channels=1, size=(96, 128))}, classes=10, embed_dim=16
    )
    streams = {"visual": checkpoints.SPECS["visual"]}
    described = checkpoints.card(config=config, streams=streams)
    checkpoint.save(tmp_path / "blind", lively(config), described)
    message = scmrl("evaluate", tmp_path / "blind", "--data", data, code=2).stderr
    assert "card.json: streams: " in message
    assert "are not the streams of avdigits" in message


def test_a_checkpoint_that_cannot_be_trained_from_is_named(
    data: Path, weights: Path, tmp_path: Path
) -> None:
    message = train(data, tmp_path / "a", *SMALL, "--init-from", tmp_path / "none")
    assert f"{tmp_path / 'none' / 'card.json'}: No such file" in message
    wide = checkpoints.save(
        tmp_path / "wide", config=checkpoints.CONFIG.model_copy(update={"embed_dim": 32})
    )
    message = train(data, tmp_path / "b", *SMALL, "--init-from", wide)
    assert message.startswith(f"scmrl: --init-from {wide}: ")
    assert "cannot become" in message


@pytest.mark.parametrize(
    ("field", "value"), [("alpha", "1e308"), ("mlp_ratio", "1e300"), ("alpha", "NaN")]
)
def test_a_card_with_a_number_out_of_bounds_is_refused_by_its_field(
    weights: Path, data: Path, tmp_path: Path, field: str, value: str
) -> None:
    copied = Path(shutil.copytree(weights / "avdigits", tmp_path / "models" / "avdigits"))
    content = json.loads((copied / "card.json").read_text())
    content["config"][field] = "@"
    (copied / "card.json").write_text(json.dumps(content).replace('"@"', value))
    message = scmrl("evaluate", copied, "--data", data, code=2).stderr
    assert message.startswith(f"scmrl: {copied / 'card.json'}: config.{field}: must be ")
    assert f"config.{field}" in scmrl("models", "--models", tmp_path / "models", code=1).stderr


def test_a_checkpoint_of_the_same_width_is_trained_from(
    data: Path, run: Path, tmp_path: Path
) -> None:
    scmrl("train", "avdigits", "--data", data, "--out", tmp_path / "on", *SMALL,
          "--learning-rate", 0, "--freeze-norms", "--init-from", run / "best")  # fmt: skip
    network, card = checkpoint.load(tmp_path / "on" / "best")
    before: SCMRL = checkpoint.load(run / "best")[0]
    assert torch.equal(network.head.weight, before.head.weight)
    assert card.training is not None
    assert "init_from" in card.training.notes


@pytest.mark.parametrize("layout", [("--attention", "none"), ("--no-alignment",)], ids=" ".join)
def test_a_checkpoint_of_another_layout_gives_the_parts_that_fit(
    data: Path, run: Path, tmp_path: Path, layout: tuple[str, ...]
) -> None:
    scmrl("train", "avdigits", "--data", data, "--out", tmp_path / "on", *SMALL, *layout,
          "--learning-rate", 0, "--freeze-norms", "--init-from", run / "best")  # fmt: skip
    after = checkpoint.load(tmp_path / "on" / "best")[0].state_dict()
    before = checkpoint.load(run / "best")[0].state_dict()
    assert after.keys() < before.keys()
    assert all(torch.equal(x, before[name]) for name, x in after.items())


def test_old_names_of_flags_work_with_a_warning(data: Path, run: Path, tmp_path: Path) -> None:
    best = run / "best"
    old = ("--shares", "both=0.75,audio=0.25", "--slow", "visual", "--slow", "audio",
           "--from", best, "--no-class", 0.25)  # fmt: skip
    warned = scmrl("train", "avdigits", "--data", data, "--out", tmp_path / "old", *SMALL, *old)
    for name, value in (
        ("--shares", "--modality-dropout all=0.75,audio=0.25"),
        ("--slow", "--lr-multiplier visual=0.1,audio=0.1,head=0.1"),
        ("--from", f"--init-from {best}"),
        ("--no-class", "--outlier-share 0.25"),
    ):
        assert f"scmrl: {name} is deprecated and will be removed" in warned.stderr
        assert f"use {value}\n" in warned.stderr
    new = ("--modality-dropout", "all=0.75,audio=0.25", "--init-from", best,
           "--lr-multiplier", "visual=0.1,audio=0.1,head=0.1", "--outlier-share", 0.25)  # fmt: skip
    quiet = scmrl("train", "avdigits", "--data", data, "--out", tmp_path / "new", *SMALL, *new)
    assert "deprecated" not in quiet.stderr
    states = [torch.load(tmp_path / x / "last.pt", weights_only=True) for x in ("old", "new")]
    assert states[0]["settings"] == states[1]["settings"]
    stdout = scmrl("train", "avdigits", "--help").output
    assert not any(f"{name} " in stdout for name in ("--shares", "--slow", "--from", "--no-class"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("--shares", "both=1"), ("--modality-dropout", "all=1")),
        (("--slow", "audio"), ("--lr-multiplier", "audio=0.1")),
        (("--from", "a"), ("--init-from", "a")),
        (("--no-class", "0.1"), ("--outlier-share", "0.1")),
    ],
)
def test_the_old_and_the_new_name_of_a_flag_are_not_given_together(
    data: Path, tmp_path: Path, old: tuple[str, str], new: tuple[str, str]
) -> None:
    message = train(data, tmp_path, *old, *new)
    assert f"{old[0]} is the old name of {new[0]}; use only one of them" in message
