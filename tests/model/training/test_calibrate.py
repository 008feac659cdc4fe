"""Temperatures are fitted on development clips, and written into the card."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from rich.console import Console
from scipy.special import softmax

from model import checkpoint
from model.checkpoint import Card, CheckpointError
from model.training import training_card
from model.training.calibrate import Fit, _fit, calibrate, run
from model.training.evaluation_options import CalibrateOptions
from model.training.evaluator import Evaluator
from model.training.options import OptionsError, TrainOptions
from model.training.speech import voices
from model.training.task import BatchPlan, DataError
from model.training.tasks import TASKS
from model.training.temperature import fit_temperature
from tests.model.networks import lively
from tests.model.training.noise_task import Noise, NoiseExamples

pytestmark = [pytest.mark.usefixtures("one_core"), pytest.mark.slow]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "noise"
    folder.mkdir()
    (folder / "levels.txt").write_text("0 dB")
    return folder


@pytest.fixture
def folder(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint with random weights, of the task noise."""
    monkeypatch.setitem(TASKS, "noise", Noise)
    folder = tmp_path / "checkpoint"
    options = TrainOptions.of(Noise(), data, embed_dim=16, steps=2)
    new = training_card.make_card(options, 0)
    checkpoint.save(folder, lively(new.config), new)
    return folder


def drawn(temperature: float, count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and classes that are drawn with the probabilities of logits / temperature."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (count, 5)).astype(np.float32)
    chances = softmax(logits / temperature, axis=1)
    labels = np.array([random.choice(5, p=row / row.sum()) for row in chances])
    return logits, labels


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_temperature_of_drawn_classes_is_recovered(temperature: float) -> None:
    assert fit_temperature(*drawn(temperature)) == pytest.approx(temperature, rel=0.1)


def test_the_temperature_of_right_answers_alone_is_not_the_lowest() -> None:
    logits = np.tile(np.float32([4, 0, 0]), (300, 1))
    assert fit_temperature(logits, np.zeros(300, int)) > 0.3


def test_clips_beyond_the_domain_do_not_decide_the_temperature() -> None:
    logits, labels = drawn(0.5)
    growth = np.ones(len(labels))
    growth[:2000], labels[:2000] = 1e6, 0
    fit = _fit(None, 4, logits, labels, growth)
    assert fit.temperature == pytest.approx(0.5, rel=0.1)


def test_a_fit_lowers_the_calibration_error_of_clips_that_it_has_not_seen() -> None:
    fit = _fit(None, 4, *drawn(0.3))
    assert fit.before > 0.15
    assert fit.after < 0.03


def test_temperatures_are_written_into_the_card(folder: Path, data: Path) -> None:
    before = checkpoint.load(folder)[1]
    calibrate(
        CalibrateOptions(folder, data, steps="1,3", clips=24, examples=0, device="cpu"), Console()
    )
    _, after = checkpoint.load(folder)
    assert after.calibration is not None
    assert set(after.calibration.temperature) == {1, 3}
    assert set(after.calibration.alone) == {"near", "far", "camera"}
    assert after.calibration.fitted_on == "24 development clips"
    assert after.domain is None, "too few clips"
    assert after.model_copy(update={"calibration": None}) == before


def test_a_fit_starts_from_the_logits_of_the_network(folder: Path, data: Path) -> None:
    """Calibrating twice gives the same temperatures: the second run divides by none."""
    options = CalibrateOptions(folder, data, steps="2", clips=24, examples=0, device="cpu")
    first: Card = calibrate(options, Console())
    assert calibrate(options, Console()).calibration == first.calibration


def test_temperatures_of_other_steps_stay(folder: Path, data: Path) -> None:
    options = CalibrateOptions(folder, data, steps="1,3", clips=24, examples=0, device="cpu")
    first = calibrate(options, Console()).calibration
    second = calibrate(replace(options, steps="2"), Console()).calibration
    assert first is not None
    assert second is not None
    assert second.temperature == first.temperature | {2: second.temperature[2]}
    assert second.alone["near"].keys() == {1, 2, 3}


def test_folds_calibrate_by_the_clips_that_each_left_out(
    folder: Path, data: Path, tmp_path: Path
) -> None:
    """The same network as its own fold, twice, has the temperatures that its own clips give."""
    options = CalibrateOptions(folder, data, steps="2", clips=24, examples=0, device="cpu")
    own = calibrate(options, Console()).calibration
    fold = tmp_path / "fold"
    shutil.copytree(folder, fold)
    card = calibrate(replace(options, folds=(fold, fold)), Console())
    assert own is not None
    assert card.calibration is not None
    assert card.calibration.temperature == pytest.approx(own.temperature, abs=1e-3)
    assert card.calibration.fitted_on == (
        "48 development clips that 2 networks of the same training left out"
    )


def test_a_fold_of_another_network_is_refused(folder: Path, data: Path, tmp_path: Path) -> None:
    fold = tmp_path / "fold"
    new = training_card.make_card(TrainOptions.of(Noise(), data, embed_dim=32, steps=2), 0)
    checkpoint.save(fold, lively(new.config), new)
    options = CalibrateOptions(folder, data, examples=0, device="cpu", folds=(fold,))
    with pytest.raises(CheckpointError, match=f"config: is not that of {folder}"):
        calibrate(options, Console())


def test_a_domain_is_fitted_on_clips_of_no_class(
    folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voices, "available", lambda: False)  # words take a minute
    options = CalibrateOptions(
        folder, data, steps="2", clips=30, examples=180, cache=tmp_path, device="cpu"
    )
    card = calibrate(options, Console())
    assert card.domain is not None
    assert set(card.domain.features) == {"near+far+camera", "near", "far", "camera"}
    assert card.domain.references == {}
    assert checkpoint.load(folder)[1] == card


class Few:
    """Examples of which there are only so many, as of a folder."""

    count: ClassVar[int] = 21

    def __init__(self) -> None:
        self.examples = NoiseExamples(5, 1.0)

    def example(self, index: int, plan: BatchPlan) -> tuple[dict[str, np.ndarray], int]:
        return self.examples.example(index % self.count, plan)


def test_a_clip_that_comes_again_is_not_counted_twice(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = Evaluator(folder, "cpu")
    outputs, labels = run(evaluator, Few(), 100, 2)
    assert len(labels) == 21
    assert {name: len(each.logits) for name, each in outputs.items()} == {
        None: 21, "near": 21, "far": 21, "camera": 21,
    }  # fmt: skip
    monkeypatch.setattr(Few, "count", 19)
    with pytest.raises(DataError, match="19 development clips: 20 are needed"):
        run(evaluator, Few(), 100, 2)


@pytest.mark.parametrize("steps", ["", "0", "65", "4,", "a", "1.5", "-1"])
def test_steps_that_are_none_are_refused(steps: str) -> None:
    with pytest.raises(OptionsError, match="--steps"):
        CalibrateOptions(Path("weights/avdigits"), None, steps=steps)


def test_a_checkpoint_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        calibrate(CalibrateOptions(tmp_path / "typo", None))
    assert list(tmp_path.iterdir()) == []


def test_a_fit_says_what_it_is_of() -> None:
    fit = _fit("camera", 8, *drawn(1.0, 200))
    assert isinstance(fit, Fit)
    assert (fit.alone, fit.steps) == ("camera", 8)
