"""`scmrl study alpha` on the tiny noise task: its files, and that nothing is done twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import typer
from click.testing import Result
from typer.testing import CliRunner

from model import checkpoint
from model.checkpoint import Calibration
from model.media.types import Clip, Pictures, Sound
from model.preprocess.profiles import PROFILES
from model.training import tasks
from model.training.evaluator import Evaluator, decode_within_memory
from model.training.options import TrainOptions
from model.training.study import examiner, residuals, runner, sweeps
from model.training.study.variants import parse
from model.training.task import DataError
from model.training.train import train
from model.training.two_objects import TwoObjects
from service.commands import study as study_command
from tests.model.training.noise_task import Noise, NoiseData

pytestmark = [pytest.mark.usefixtures("one_core"), pytest.mark.slow]

SMALL = (
    "--variants", "0.5,none", "--seeds", 1, "--start-epochs", 1, "--epochs", 1, "--clips", 8,
    "--batch", 4, "--channels", 16, "--steps", 1, "--development-clips", 20, "--test-clips", 10,
    "--pairs", 2, "--settle", 1, "--device", "cpu",
)  # fmt: skip


#: As SMALL, without what is alpha's own.
OTHERS = (*SMALL[2:-6], "--device", "cpu")


class PairsOfNoise(NoiseData):
    """Noise that offers pictures of two objects."""

    def two_objects(self, count: int, seed: int) -> Iterator[TwoObjects]:
        rng = np.random.default_rng(seed)
        for _ in range(count):
            sounds = tuple(
                Sound(rng.standard_normal((1, 4000), np.float32), 8000) for _ in range(2)
            )
            frame = rng.integers(0, 256, (48, 64, 3), np.uint8)
            boxes = ((0.0, 0.0, 30.0, 48.0), (34.0, 0.0, 64.0, 48.0))
            yield TwoObjects(Pictures((frame,), (0.0,)), boxes, (0, 1), (sounds[0], sounds[1]))


class NoiseWithPairs(Noise):
    def load(self, folder: Path) -> NoiseData:
        data = super().load(folder)
        return PairsOfNoise(data.sha256, data.gain)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(tasks.TASKS, "noise", NoiseWithPairs)
    folder = tmp_path / "noise"
    folder.mkdir()
    (folder / "levels.txt").write_text("0 dB")
    return folder


def scmrl(*arguments: object, code: int = 0) -> Result:
    app = typer.Typer(rich_markup_mode="markdown")
    study_command.register(app)
    environment = {"COLUMNS": "200", "TERM": "dumb"}
    result = CliRunner().invoke(app, [str(x) for x in arguments], env=environment)
    assert result.exit_code == code, result.output
    return result


def test_a_study_compares_its_variants_and_repeats_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    command = ("study", "alpha", "--task", "noise", "--data", data, "--out", out, *SMALL)
    scmrl(*command)
    table = json.loads((out / runner.NUMBERS).read_text())
    assert table["variants"] == ["0.5", "none"]
    by_measure = {row["measure"]: row["estimates"] for row in table["rows"]}
    for expected in (
        "development/clean/all/accuracy",
        "residual/camera",
        "test/clean/all/accuracy",
        "test/clean/camera/calibration error, calibrated",
        "test/camera blurred/all/accuracy",
        "test/near microphone noise at -10 dB/near/accuracy",
        "norms settled/clean/far/accuracy",
        "norms by mode/clean/camera/cross-entropy",
        "mode - settled/clean/camera/cross-entropy",
        "pairs/heard",
        "hidden/drop_top",
        "hidden by class/drop_top",
    ):
        assert by_measure[expected]["0.5"]["seeds"] == 1, expected
    assert by_measure["hidden/drop_top"]["none"] is None  # it has no attention
    assert by_measure["hidden by class/drop_top"]["none"] is not None
    assert by_measure["residual/camera"]["none"] is None
    assert by_measure["pairs/heard"]["none"] is not None
    text = (out / runner.TABLE).read_text()
    assert "| | α 0.5 | no residual |" in text
    assert "accuracy, camera alone, camera blurred" in text
    assert (out / runner.FIGURE).stat().st_size > 1000
    files = {path: path.stat().st_mtime_ns for path in out.glob("*/*.*") if path.suffix != ".csv"}
    assert len([path for path in files if path.name == examiner.MEASURED]) == 2
    monkeypatch.setitem(runner._MEASURES, "alpha", None)  # it must not be called again
    scmrl(*command)
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_silent_residuals_are_named_by_variant_stream_and_run() -> None:
    task, zeros, some = Noise(), np.zeros(30), np.eye(30)[0]
    silent = {"residual/near": zeros, "residual/camera": zeros}
    half = {"residual/near": some, "residual/camera": zeros}
    alpha, unaligned, none = parse("0.5,0.5-unaligned,none")
    text = residuals.warning(task, {alpha: [silent], unaligned: [half], none: [{}]})
    assert "α 0.5 (near microphone, camera); α 0.5, no alignment (camera). There" in text
    text = residuals.warning(task, {alpha: [half, silent]})
    assert "α 0.5 (camera in 2 of 2 runs, near microphone in 1 of 2 runs). There" in text
    assert not residuals.warning(task, {alpha: [half | {"residual/camera": some}], none: [{}]})


@pytest.mark.parametrize(("study", "more"), [("ablation", ()), ("noise", ("--snrs", 0))])
def test_a_study_says_where_its_residuals_are_silent(
    data: Path, tmp_path: Path, study: str, more: tuple[object, ...]
) -> None:
    """New weights: on the console before and after the training, and above the table."""
    out = tmp_path / "out"
    command = ("study", study, "--task", "noise", "--data", data, "--out", out, *OTHERS, *more)
    printed = " ".join(scmrl(*command, "--variants", "s-cmrl").output.split())
    assert "warning: training starts from new weights, whose cross-modal residuals" in printed
    rates = {key: x["s-cmrl"]["value"] for key, x in numbers(out).items() if "residual" in key}  # type: ignore[index]
    assert rates == {"residual/near": 0, "residual/far": 0, "residual/camera": 0}
    warning = "Silent residuals: r is 0 in every token with S-CMRL (near microphone, far microphone"
    assert f"warning: {warning}" in printed
    assert f"> **{warning}" in (out / runner.TABLE).read_text()


def test_without_epochs_a_checkpoint_is_measured_with_other_weights_of_its_residuals(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = train(
        TrainOptions.of(NoiseWithPairs(), data, out=tmp_path / "Run", epochs=1, clips=8, batch=4,
                        embed_dim=16, steps=2, development_clips=20)
    )  # fmt: skip
    out = tmp_path / "out"
    arguments = ("--task", "noise", "--data", data, *OTHERS, "--epochs", 0)
    command = ("study", "ablation", *arguments, "--variants", "0.5,none")
    scmrl(*command, "--out", out, "--init-from", source)
    weights = checkpoint.load(source)[0].state_dict()
    for name, alpha, attention in (("0.5", 0.5, True), ("none", 0.0, False)):
        network, card = checkpoint.load(out / f"{name}-0" / "best")
        assert (card.config.alpha, card.config.attention is not None) == (alpha, attention)
        assert card.steps == 2  # as the checkpoint's, whatever --steps is
        assert all(torch.equal(x, weights[key]) for key, x in network.state_dict().items())
    assert "Run/best, without training; 1 seed." in (out / runner.TABLE).read_text()
    message = scmrl(*command, "--out", out, code=2).stderr
    assert "--epochs 0: --init-from must name the checkpoint" in message
    shipped = tmp_path / "shipped" / "noise"
    shipped.parent.mkdir()
    shipped.symlink_to(source)
    monkeypatch.setattr(study_command, "WEIGHTS", shipped.parent)
    scmrl("study", "steps", *arguments, "--out", tmp_path / "default", "--time-steps", 1)
    assert checkpoint.load(tmp_path / "default" / "as-is-0" / "best")[1].steps == 2
    bare = out / "none-0" / "best"
    message = scmrl(*command, "--out", out, "--init-from", bare, code=2).stderr
    assert f"--init-from {bare}: has no weights for α 0.5" in message
    command = ("study", "ablation", *arguments, "--out", out, "--init-from", source)
    message = scmrl(*command, "--variants", "concat", code=2).stderr
    assert f"--init-from {source}: has no weights for concatenation" in message


def numbers(out: Path) -> dict[str, dict[str, dict[str, object]]]:
    """The estimates of a study by the measure."""
    table = json.loads((out / runner.NUMBERS).read_text())
    return {row["measure"]: row["estimates"] for row in table["rows"]}


def test_an_ablation_trains_other_fusions_and_each_stream_alone(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("study", "ablation", "--task", "noise", "--data", data, "--out", out, *OTHERS)
    scmrl(*command, "--variants", "s-cmrl,cmqka,cmci,alone")
    for fusion in ("cmqka", "cmci"):
        network, card = checkpoint.load(out / f"{fusion}-0" / "best")
        assert (card.config.fusion, card.config.attention) == (fusion, None)
        assert any(name.startswith(("fuse", "residual")) for name in network.state_dict())
    measured = numbers(out)["test/clean/camera/accuracy"]
    assert measured.keys() == {
        "s-cmrl", "cmqka", "cmci", "near-alone", "far-alone", "camera-alone"
    }  # fmt: skip
    assert measured["camera-alone"] is not None
    assert measured["near-alone"] is None  # it never saw a picture
    assert numbers(out)["test/clean/all/accuracy"]["camera-alone"] is None
    text = (out / runner.TABLE).read_text()
    assert "| | S-CMRL | CMQKA | CMCI | near microphone alone |" in text
    assert (out / runner.FIGURE).stat().st_size > 1000


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data folder and a checkpoint of the noise task."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "levels.txt").write_text("0 dB")
    best = train(
        TrainOptions.of(Noise(), folder, out=folder / "run", epochs=1, clips=8, batch=4,
                        embed_dim=16, steps=2, development_clips=20)
    )  # fmt: skip
    return folder, best


def as_it_is(study: str, trained: tuple[Path, Path], out: Path, *more: object) -> str:
    """Measure a checkpoint without training, and return the table."""
    folder, best = trained
    scmrl("study", study, "--task", "noise", "--data", folder, "--out", out, "--init-from", best,
          "--epochs", 0, *OTHERS[6:], *more)  # fmt: skip
    assert (out / runner.FIGURE).stat().st_size > 1000
    return (out / runner.TABLE).read_text()


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tasks.TASKS, "noise", Noise)


@pytest.mark.usefixtures("noise")
def test_a_checkpoint_is_measured_under_noise(trained: tuple[Path, Path], tmp_path: Path) -> None:
    text = as_it_is("noise", trained, tmp_path, "--snrs", "0,30")
    everywhere = "all streams, noise on near microphone and far microphone and camera"
    assert f"| {everywhere} |" in text
    assert "| camera alone, noise on it |" in text
    lines = [line.split(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    assert lines[2:] == ["| clean", "| 0", "| 30"]
    measured = numbers(tmp_path)
    assert len(measured) == 3 * 7  # three streams, all, and each alone
    clean, noisy = (measured[f"noise/{x}/{everywhere}"]["as-is"] for x in ("clean", "30"))
    assert clean["clips"] == noisy["clips"] == 10  # type: ignore[index]


@pytest.mark.usefixtures("noise")
def test_temperatures_of_a_card_do_not_change_what_is_compared(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    """Else the variant with the card's alpha has them, and the others have not."""
    folder, best = trained
    network, card = checkpoint.load(best)
    calibration = Calibration(temperature={2: 3.0}, fitted_on="a test")
    (tmp_path / "hot").mkdir()
    checkpoint.save(tmp_path / "hot", network, card.model_copy(update={"calibration": calibration}))
    measured = []
    for source in (best, tmp_path / "hot"):
        out = tmp_path / f"of-{source.name}"
        as_it_is("modalities", (folder, source), out)
        measured.append(numbers(out))
    assert measured[0]["test/clean/all/cross-entropy"]["as-is"] is not None
    assert measured[0] == measured[1]


@pytest.mark.usefixtures("noise")
def test_a_checkpoint_is_measured_over_time_steps(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    text = as_it_is("steps", trained, tmp_path, "--time-steps", "1,3")
    assert "| time steps T | all streams | near microphone alone |" in text
    folder, best = trained
    evaluator = Evaluator(best, "cpu")
    clips = decode_within_memory(Noise().load(folder).test_clips(10, 7), 3, evaluator)
    right = evaluator.logits(clips, 3).argmax(1) == examiner.labels_of(clips)
    estimate = numbers(tmp_path)["steps/3/all streams"]["as-is"]
    assert estimate["value"] == pytest.approx(right.mean())  # type: ignore[index]


@pytest.mark.usefixtures("noise")
def test_a_checkpoint_is_measured_where_clips_stop_early(
    trained: tuple[Path, Path], tmp_path: Path
) -> None:
    """A margin of 0 stops after one step, one of 1 never: 1 + 2 + 3 steps of a clip are run."""
    text = as_it_is("exit", trained, tmp_path, "--margins", "0,0.2,1", "--most-steps", 3)
    assert "| exit margin | accuracy | mean T of the answers | mean of all steps run |" in text
    values = {key: each["as-is"]["value"] for key, each in numbers(tmp_path).items()}  # type: ignore[index]
    assert [values[f"exit/{x}/{sweeps.ANSWERED_AFTER}"] for x in ("0", "1")] == [1, 3]
    assert [values[f"exit/{x}/{sweeps.STEPS_RUN}"] for x in ("0", "1", sweeps.NO_EXIT)] == [1, 6, 3]
    assert values["exit/1/accuracy"] == values[f"exit/{sweeps.NO_EXIT}/accuracy"]
    folder, best = trained
    evaluator = Evaluator(best, "cpu")
    clips = decode_within_memory(Noise().load(folder).test_clips(10, 7), 3, evaluator)
    right = evaluator.logits(clips, 3).argmax(1) == examiner.labels_of(clips)
    assert values["exit/1/accuracy"] == pytest.approx(right.mean())


@pytest.mark.usefixtures("noise")
def test_streams_alone_are_compared_with_all(trained: tuple[Path, Path], tmp_path: Path) -> None:
    as_it_is("modalities", trained, tmp_path)
    measured = numbers(tmp_path)
    together, alone, gain = (
        measured[key]["as-is"]["value"]  # type: ignore[index]
        for key in ("test/clean/all/accuracy", "test/clean/far/accuracy", "gain/clean/far/accuracy")
    )
    assert gain == pytest.approx(together - alone)  # type: ignore[operator]


def test_noise_of_all_streams_is_in_all_of_them() -> None:
    """Two streams of sound share the clip's: it gets noise once."""
    rng = np.random.default_rng(0)
    clip = Clip(
        Sound(rng.standard_normal((1, 4000), np.float32), 8000),
        Pictures((rng.integers(0, 256, (8, 8, 3), np.uint8),), (0.0,)),
    )
    noisy = sweeps._noise(Noise(), ("near", "far", "camera"), 20)(clip, np.random.default_rng(1))
    assert noisy.sound is not None
    assert clip.sound is not None
    assert noisy.pictures is not None
    assert clip.pictures is not None
    change = noisy.sound.samples - clip.sound.samples
    assert change.std() == pytest.approx(0.1 * clip.sound.samples.std(), rel=0.1)
    assert (noisy.pictures.frames[0] != clip.pictures.frames[0]).any()


def test_a_task_without_noise_is_refused(tmp_path: Path) -> None:
    specs = {"audio": PROFILES["mnistdvs_ntidigits"]["audio"]}
    task = SimpleNamespace(name="spikes", specs=specs)
    with pytest.raises(DataError, match=r"spikes: noise is known for spectrogram, frames only"):
        sweeps.noisy_streams(task)  # type: ignore[arg-type]


def test_an_interrupted_study_stops(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training answers Ctrl-C with what it has: the study must not measure that."""
    monkeypatch.setattr(runner, "train", lambda options: options.best)
    out = tmp_path / "out"
    message = scmrl("study", "alpha", "--task", "noise", "--data", data, "--out", out, *SMALL,
                    code=130).stderr  # fmt: skip
    assert "the same command resumes it" in message
    assert not list(out.glob("*/measured.npz"))


def test_too_few_development_clips_are_found_before_the_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = PairsOfNoise("", 1.0).development_examples()
    repeated = SimpleNamespace(example=lambda index, plan: examples.example(index % 7, plan))
    monkeypatch.setattr(PairsOfNoise, "development_examples", lambda _: repeated)
    out = tmp_path / "out"
    message = scmrl("study", "ablation", "--task", "noise", "--data", data, "--out", out, *OTHERS,
                    code=2).stderr  # fmt: skip
    assert "7 development clips: 20 are needed to calibrate" in message
    assert list(out.iterdir()) == []


def test_what_was_measured_with_other_settings_is_measured_again(tmp_path: Path) -> None:
    file = tmp_path / examiner.MEASURED
    np.savez(file, **{"pairs/mass": np.ones(3), examiner._SETTINGS: np.asarray("a")})
    assert examiner._read(file, "b") is None
    read = examiner._read(file, "a")
    assert read is not None
    assert list(read) == ["pairs/mass"]
    assert examiner._read(tmp_path / "none.npz", "a") is None


def test_an_unknown_task_is_named(data: Path, tmp_path: Path) -> None:
    message = scmrl("study", "alpha", "--task", "digits", "--data", data, "--out", tmp_path,
                    code=2).stderr  # fmt: skip
    assert "--task digits: must be one of avdigits, " in message
