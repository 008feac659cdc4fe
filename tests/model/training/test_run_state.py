"""A run is resumed with its own settings alone; errors name the file or the option."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from model.training import run_state
from model.training.avdigits.task import AVDigits
from model.training.epochs import Accuracies, EpochMetrics, append
from model.training.options import OptionsError, TrainOptions, flag
from model.training.run_state import RunError, RunState
from model.training.run_state_migration import ADDED
from model.training.task import DataError
from model.training.train import Trainer, train
from tests.model.test_whole_file import full_disk

pytestmark = [pytest.mark.usefixtures("one_core"), pytest.mark.slow]

#: Another value of each option that decides what a run ends with.
OTHERS: dict[str, Any] = {
    "epochs": 5,
    "clips": 32,
    "batch": 12,
    "embed_dim": 32,
    "attention": "spatial",
    "alignment": False,
    "fusion": "concat",
    "encoding": "rate",
    "alpha": 0.75,
    "steps": 3,
    "learning_rate": 1e-2,
    "weight_decay": 0.5,
    "warmup_epochs": 2.0,
    "curriculum": 0.25,
    "label_smoothing": 0.0,
    "temperature": 1.0,
    "development_clips": 12,
    "modality_dropout": {"audio": 1.0},
    "lr_multiplier": {"visual": 0.1},
    "new_towers": {"visual": 1.0},
    "freeze_norms": True,
    "average": 2,
    "seed": 11,
    "init_from": Path("elsewhere"),
    "select_by": "loss",
    "settle_norms": 3,
    "precision": "float32",
    "auto_batch": True,
    "easy_start": True,
    "splitting": "shallow",
    "short_sequences": False,
    "learning_rate_batch": 1024,
    "learning_rate_floor": 1e-5,
    "max_gradient_norm": 0.0,
    "outlier_share": 0.25,
}
#: Options that may be other ones.
FREE: dict[str, Any] = {
    "workers": 3,
    "command": "scmrl train avdigits --resume",
    "name": "digits",
    "device": "cpu",
    "patience": 9,
    "test_clips": 5,
    "calibrate": True,
}


@pytest.fixture(scope="module")
def begun(avdigits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainOptions:
    """The options of a run whose first epoch of two is saved."""
    options = TrainOptions.of(
        AVDigits(synthetic_takes=0), avdigits_folder, out=tmp_path_factory.mktemp("runs") / "run",
        epochs=2, clips=24, batch=8, embed_dim=16, steps=2, development_clips=10,
    )  # fmt: skip
    run = Trainer(options)
    run.restore()
    run.save(EpochMetrics(1, 1e-3, 2.0, 1.0, Accuracies(0.5, {"audio": 0.5, "visual": 0.5})))
    return replace(options, resume=True)


def refusal(options: TrainOptions) -> str:
    with pytest.raises(RunError) as raised:
        train(options)
    return str(raised.value)


def test_every_option_is_tested_here() -> None:
    names = {field.name for field in fields(TrainOptions)}
    assert names == {*OTHERS, *FREE, "task", "data", "out", "resume"}


@pytest.mark.parametrize("name", OTHERS)
def test_a_run_is_not_resumed_with_another_setting(name: str, begun: TrainOptions) -> None:
    before = (begun.out / "last.pt").read_bytes()
    message = refusal(replace(begun, **{name: OTHERS[name]}))
    match = re.search(rf"{flag(name)} (\S+), but the run has ([^;]+);", message)
    assert match, message
    assert match[1] != match[2]
    assert message.count("but the run has") == 1
    assert (begun.out / "last.pt").read_bytes() == before


def test_synthetic_takes_of_another_number_are_refused(
    begun: TrainOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.training.speech.voices.available", lambda: True)
    message = refusal(replace(begun, task=AVDigits(synthetic_takes=7)))
    assert "--synthetic-takes 7, but the run has 0;" in message


def test_both_values_of_each_setting_are_named(begun: TrainOptions) -> None:
    message = refusal(replace(begun, alpha=0.25, learning_rate=1e-4, embed_dim=32))
    assert str(begun.out / "last.pt") in message
    for expected in (
        "--alpha 0.25, but the run has 0.5",
        "--learning-rate 0.0001, but the run has 0.003",
        "--channels 32, but the run has 16",
    ):
        assert expected in message


@pytest.mark.parametrize("name", FREE)
def test_options_that_do_not_change_the_weights_may_differ(name: str, begun: TrainOptions) -> None:
    run = Trainer(replace(begun, **{name: FREE[name]}))
    run.restore()
    assert run.epoch == 1
    assert run.best == pytest.approx(0.5)


def test_an_integer_is_the_same_setting_as_its_float(begun: TrainOptions) -> None:
    saved = run_state.load(begun.out / "last.pt").settings
    digest = saved["data"]
    dropout = dict.fromkeys(("all",), 1)
    whole = run_state.settings(replace(begun, alpha=1, modality_dropout=dropout), "")
    assert whole["alpha"] == run_state.settings(replace(begun, alpha=1.0), "")["alpha"]
    assert whole["modality_dropout"] == "all=1.0"
    assert digest.startswith("contents of SHA-256 ")


def test_a_run_is_resumed_with_the_same_data_in_any_folder(
    begun: TrainOptions, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(begun.data, moved)
    assert Trainer(replace(begun, data=moved)).saved
    (moved / "speech" / "3_lucas_1.wav").unlink()
    assert "--data contents of SHA-256" in refusal(replace(begun, data=moved))


def as_of_0_1(state: RunState) -> RunState:
    """The state as scmrl 0.1 wrote it, with the names that options had then."""
    now = {name: text for name, text in state.settings.items() if name not in ADDED}
    names = {
        "modality_dropout": "shares",
        "lr_multiplier": "slow",
        "init_from": "begin",
        "warmup_epochs": "warmup",
        "curriculum": "ramp",
        "label_smoothing": "smoothing",
    }
    assert now.pop("task") == "avdigits"
    settings = {names.get(name, name): text for name, text in now.items()}
    settings |= {
        "shares": "both=0.2,visual=0.6,audio=0.2",
        "slow": "visual",
        "data": now["data"].replace("contents", "pictures and words"),
    }
    groups = [
        {("pace" if name == "lr_multiplier" else name): value for name, value in group.items()}
        for group in state.optimizer["param_groups"]
    ]
    return replace(state, settings=settings, optimizer=state.optimizer | {"param_groups": groups})


def test_a_run_of_0_1_is_resumed_to_the_same_weights(begun: TrainOptions, tmp_path: Path) -> None:
    slow = replace(begun, out=tmp_path / "now", lr_multiplier={"visual": 0.1, "head": 0.1})
    trainer = Trainer(replace(slow, resume=False))
    trainer.save(trainer.train_epoch(0, Console(quiet=True)))
    old = copy_run(slow, tmp_path / "old")
    as_of_0_1(run_state.load(old.out / "last.pt")).save(old.out / "last.pt")
    assert "shares" in torch.load(old.out / "last.pt", weights_only=True)["settings"]
    refused = refusal(replace(old, lr_multiplier={}))
    assert "--lr-multiplier none, but the run has visual=0.1,head=0.1;" in refused
    train(slow)
    train(old)
    now, then = (torch.load(run.out / "last.pt", weights_only=True) for run in (slow, old))
    assert now["settings"] == then["settings"]
    for name, tensor in now["network"].items():
        assert torch.equal(tensor, then["network"][name]), name


def test_a_damaged_state_of_0_1_is_refused(begun: TrainOptions, tmp_path: Path) -> None:
    options = copy_run(begun, tmp_path / "run")
    state = as_of_0_1(run_state.load(options.out / "last.pt"))
    for damaged in ({}, {"param_groups": 3}, {"param_groups": [1]}):
        replace(state, optimizer=damaged).save(options.out / "last.pt")
        assert f"{options.out / 'last.pt'}: damaged" in refusal(options)


# --- files that are not a run ------------------------------------------------------------------


def test_resuming_where_there_is_no_run_says_so(begun: TrainOptions, tmp_path: Path) -> None:
    out = tmp_path / "nothing"
    assert refusal(replace(begun, out=out)).startswith(f"{out / 'last.pt'}: No such file")
    assert not out.exists()
    (tmp_path / "file").write_text("no folder")
    assert "Not a directory" in refusal(replace(begun, out=tmp_path / "file"))


def copy_run(begun: TrainOptions, folder: Path) -> TrainOptions:
    shutil.copytree(begun.out, folder)
    return replace(begun, out=folder)


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {"network": {}},
        {"epoch": 1, "network": {}, "optimizer": {}, "best": 0.0, "last_weights": []},
        dict.fromkeys(("network", "optimizer", "epoch", "best", "last_weights", "settings"), 1),
    ],
)
def test_a_file_of_something_else_is_not_resumed(
    content: Any, begun: TrainOptions, tmp_path: Path
) -> None:
    options = copy_run(begun, tmp_path / "run")
    torch.save(content, options.out / "last.pt")
    assert "not the state of a run" in refusal(options)


def test_a_state_of_another_network_is_called_damaged(begun: TrainOptions, tmp_path: Path) -> None:
    options = copy_run(begun, tmp_path / "run")
    saved = run_state.load(options.out / "last.pt")
    saved.network.pop("head.bias")
    saved.save(options.out / "last.pt")
    assert "head.bias" in refusal(options)


@given(data=st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_state_is_refused_or_whole(
    data: st.DataObject, begun: TrainOptions, tmp_path: Path
) -> None:
    """Never another error: bits are flipped and the end is cut off."""
    broken = bytearray((begun.out / "last.pt").read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        bit = data.draw(st.integers(0, 8 * len(broken) - 1))
        broken[bit // 8] ^= 1 << bit % 8
    del broken[data.draw(st.one_of(st.just(len(broken)), st.integers(0, len(broken)))) :]
    file = tmp_path / "last.pt"
    file.write_bytes(broken)
    message = problem_of(file)
    assert message is None or message.startswith(str(file))


def problem_of(file: Path) -> str | None:
    try:
        run_state.load(file)
    except RunError as exc:
        return str(exc)
    return None


def test_a_run_whose_best_checkpoint_is_gone_is_not_resumed(
    begun: TrainOptions, tmp_path: Path
) -> None:
    options = copy_run(begun, tmp_path / "run")
    shutil.rmtree(options.out / "best")
    assert f"{options.out / 'best' / 'card.json'}: is missing" in refusal(options)


@pytest.mark.parametrize("text", ["epoch\n1\n", "a,b\n1,2\n", "\0\xff", "epoch,loss\nx,1\n"])
def test_a_table_of_something_else_is_found_before_training(
    text: str, begun: TrainOptions, tmp_path: Path
) -> None:
    options = copy_run(begun, tmp_path / "run")
    (options.out / "metrics.csv").write_text(text)
    assert "metrics.csv: not a table of epochs" in refusal(options)


def test_a_full_disk_is_named_and_the_last_state_is_kept(
    begun: TrainOptions, tmp_path: Path
) -> None:
    options = copy_run(begun, tmp_path / "run")
    file, table = options.out / "last.pt", options.out / "metrics.csv"
    before = {each.name: each.read_bytes() for each in (file, table)}
    state = run_state.load(file)
    with full_disk(20), pytest.raises(OSError, match=f"File too large: '{file}'"):
        state.save(file)
    second = EpochMetrics(2, 1e-3, 2.0, 1.0, Accuracies(0.5, {"audio": 0.5, "visual": 0.5}))
    with full_disk(20), pytest.raises(OSError, match=f"File too large: '{table}'"):
        append(table, second)
    assert {each.name: each.read_bytes() for each in (file, table)} == before
    assert not list(options.out.glob("*.part"))


def test_two_processes_do_not_write_to_one_folder(begun: TrainOptions, tmp_path: Path) -> None:
    options = copy_run(begun, tmp_path / "run")
    code = (
        "import pathlib, sys; from model.training import run_state; "
        "claim = run_state.claim(pathlib.Path(sys.argv[1])); print('claimed', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, options.out], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"claimed\n"
        assert f"{options.out}: another run writes to it; choose another --out" in refusal(options)
        other.kill()
    assert Trainer(options).saved
    assert Trainer(options).saved


# --- other files -----------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_refused_by_its_option(
    begun: TrainOptions, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    no_utf_8 = tmp_path / os.fsdecode(b"caf\xe9")
    for out in (tmp_path / "file", tmp_path / "file" / "run", no_utf_8):
        shown = re.escape(str(out).replace("\udce9", r"\xe9"))
        with pytest.raises(OptionsError, match=f"--out {shown}: "):
            train(replace(begun, out=out, resume=False))


def test_a_damaged_cache_of_voices_is_named(
    begun: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.training.speech.voices.available", lambda: True)
    (tmp_path / "voices-5.npz").write_bytes(b"half of it")
    fresh = replace(begun, out=tmp_path / "run", resume=False, task=AVDigits(synthetic_takes=5))
    with pytest.raises(DataError, match=r"voices-5\.npz: cannot be read"):
        train(fresh)
