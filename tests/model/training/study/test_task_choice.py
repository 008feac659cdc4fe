"""The task of a study: its options from the command, or the split of the checkpoint's card."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from unittest.mock import Mock

import pytest

from model.checkpoint import CARD
from model.training.drones.task import Drones
from model.training.options import OptionsError
from model.training.paper.crema_d import CremaD
from model.training.paper.urbansound8k_av import UrbanSound8KAV
from model.training.study import runner
from model.training.study.options import StudyOptions
from model.training.study.runner import run_study
from model.training.study.task_choice import task_of
from model.training.task import Data, DataError
from service.default_checkpoint import WEIGHTS
from tests.model.training.folder.clip_files import picture
from tests.model.training.paper.data_folders import crema_d, urbansound8k_av


def test_options_of_the_task_are_those_of_its_training(tmp_path: Path) -> None:
    data = crema_d(tmp_path / "data")
    text = "split=subjects, split-seed=3,development-share=0.25,mirror=false,skip-faulty=true"
    task = task_of(StudyOptions("crema-d", data, tmp_path / "out", task_options=text))
    expected = CremaD(
        split="subjects", split_seed=3, development_share=0.25, mirror=False, skip_faulty=True
    )
    assert task == expected.for_data(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fold=1", "--task-options fold=1: must be NAME=VALUE of split, split-seed, "),
        ("split", "--task-options split: must be NAME=VALUE of split, "),
        ("copies=many", "--task-options copies=many: must be a number"),
        ("mirror=no", "--task-options mirror=no: must be true or false"),
        ("split=actors", "--split actors: must be one of published, subjects"),
    ],
)
def test_what_the_task_cannot_take_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(OptionsError) as caught:
        task_of(StudyOptions("crema-d", tmp_path, tmp_path / "out", task_options=text))
    assert str(caught.value).startswith(message)


def test_faulty_clips_are_found_before_the_training_and_are_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `scmrl train` does: the measured clips are those of the trainings."""
    task = UrbanSound8KAV()
    data = urbansound8k_av(tmp_path / "data", dict.fromkeys(task.labels, 7))
    (data / "Dataset_v3_sound" / "siren" / "106-8-0-6.wav").write_bytes(b"no sound")
    loaded: list[Data] = []
    monkeypatch.setattr(runner, "Examiner", lambda *arguments: loaded.append(arguments[2]))
    monkeypatch.setattr(runner, "train", lambda options: pytest.fail("it trains"))
    options = StudyOptions(task.name, data, tmp_path / "out", "steps", seeds=1)
    with pytest.raises(DataError, match=r"siren/106-8-0-6"):
        run_study(options)
    monkeypatch.setattr(runner, "_train", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_study(replace(options, task_options="skip-faulty=true"))
    names = [clip.name for clip in loaded[0].test_clips(1000, 7)]
    assert len(names) == 19
    assert not any("siren/106-8-0-6" in name for name in names)


def test_variants_of_a_folder_are_neither_calibrated_nor_tested_by_their_training(
    tmp_path: Path,
) -> None:
    """The study measures all alike, with its own temperatures."""
    data = tmp_path / "data"
    for name, number in product(("cat", "dog"), range(4)):
        picture(data / name / f"{number}.png", number)
    options = StudyOptions("folder", data, tmp_path / "out", start_epochs=1)
    task = task_of(options)
    assert task.defaults["calibrate"]
    trainings = [options.start(task, 0)]
    trainings += [options.run(task, variant, 0) for variant in options.variants_of(task)]
    for training in trainings:
        assert not training.calibrate
        assert training.test_clips == 0


def measured(task: str, checkpoint: Path, **options: str) -> StudyOptions:
    return StudyOptions(
        task, checkpoint, checkpoint / "out", "noise", epochs=0, init_from=checkpoint, **options
    )


def test_a_checkpoint_as_it_is_has_the_split_of_its_card(tmp_path: Path) -> None:
    """The default split would test a network of fold 2 on clips that it was trained on."""
    card = json.loads((WEIGHTS / "drones" / CARD).read_text())
    card["training"]["notes"]["fold"] = "2"
    (tmp_path / CARD).write_text(json.dumps(card))
    task = task_of(measured("drones", tmp_path))
    assert isinstance(task, Drones)
    assert task.fold == 2
    with pytest.raises(OptionsError, match="with --epochs 0 those of the checkpoint hold"):
        task_of(measured("drones", tmp_path, task_options="fold=1"))
    with pytest.raises(OptionsError, match="its task is drones"):
        task_of(measured("avdigits", tmp_path))
