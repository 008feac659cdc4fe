"""Clips of one's own are trained on, measured and served, by the command line alone."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from model import checkpoint
from model.checkpoint import CheckpointError
from model.training import final_measurement
from model.training.calibrate import calibrate
from model.training.checkpoint_task import task_of_card
from model.training.evaluate import evaluate
from model.training.evaluation_options import CalibrateOptions, EvaluateOptions
from model.training.folder.clip_files import ClipFiles
from model.training.folder.task import FolderTask
from model.training.options import OptionsError, TrainOptions
from model.training.run_state import RunError
from model.training.speech import voices
from model.training.task import DataError
from model.training.train import train
from model.training.training_card import make_card
from tests.conftest import ROOT
from tests.model.training.folder.clip_files import movie, movies, picture, sound

pytestmark = [pytest.mark.usefixtures("one_core"), pytest.mark.slow]

SMALL = FolderTask(picture_size=32, seconds=0.4, licence="CC0")
#: Options of a training of seconds.
QUICK = {
    "epochs": 2, "clips": 8, "batch": 4, "embed_dim": 16, "steps": 2, "device": "cpu",
    "precision": "float32",
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return movies(tmp_path_factory.mktemp("clips"), count=4)


def options_of(task: FolderTask, data: Path, out: Path, **changes: object) -> TrainOptions:
    return TrainOptions.of(task.for_data(data), data, out=out, **{**QUICK, **changes})


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs, which is the checkpoint itself."""
    out = tmp_path_factory.mktemp("runs") / "mine"
    assert train(options_of(SMALL, data, out)) == out
    return out


def measure(folder: Path, data: Path, out: Path) -> dict[str, int | None]:
    """The number of clips of each measurement."""
    options = EvaluateOptions(folder, data, out, clips=10, curve_clips=2, device="cpu")
    return {m.what: m.n for m in evaluate(options, Console(quiet=True)).accuracy}


def test_the_card_of_a_run_is_complete(run: Path, data: Path) -> None:
    network, card = checkpoint.load(run)
    assert (card.name, card.labels) == ("mine", ("cat", "dog"))
    assert card.description == "One of cat, dog, by sound and picture."
    assert card.streams == SMALL.for_data(data).specs
    assert tuple(network.config.streams) == ("audio", "visual")
    assert card.missing_streams
    (source,) = card.data
    assert (source.name, source.licence) == (str(data), "CC0")
    assert card.training is not None
    assert card.training.task == "folder"
    split = "split by file, seed 0: 4 clips to train, 2 to choose the epoch, 2 to test"
    assert card.training.notes["split"] == source.what == split
    counts = {m.what: m.n for m in card.accuracy}
    for name in ("both streams", "sound alone", "picture alone"):
        assert counts[f"accuracy, {name}"] == 2
    assert counts["recall, cat"] == counts["recall, dog"] == 1
    assert {"recall, mean of the classes", "expected calibration error"} <= counts.keys()
    assert all("clips that training never saw" in m.conditions for m in card.accuracy)


def test_a_run_is_evaluated_on_what_it_has_not_seen(run: Path, data: Path, tmp_path: Path) -> None:
    counts = measure(run, data, tmp_path / "figures")
    assert counts["accuracy, both streams"] == 2
    assert counts["accuracy, both streams, noise on the sound"] == 2
    assert counts["accuracy, both streams, T = 8"] == 2
    for name in ("confusion", "reliability", "noise", "steps"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 1000
    # More clips in the folder: they are measured as well, those of training still are not.
    grown = Path(shutil.copytree(data, tmp_path / "grown"))
    for take in range(3):
        movie(grown / "dog" / "new" / f"{take}.mp4", 1, 500 + take)
    assert measure(run, grown, tmp_path / "figures")["accuracy, both streams"] == 5
    for name in ("one", "two"):
        (grown / "cat" / f"{name}.mp4").write_bytes(b"no movie at all")
    faults = (
        r"2 of the clips cannot be measured:\ncat/one.mp4: this file .*\ncat/two.mp4: this file "
    )
    with pytest.raises(DataError, match=faults):
        measure(run, grown, tmp_path / "figures")


def test_a_run_is_calibrated_on_the_clips_that_chose_its_epoch(
    run: Path, data: Path, tmp_path: Path
) -> None:
    """With 20 of them: the test clips that training never saw are not used."""
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    grown = Path(shutil.copytree(data, tmp_path / "grown"))
    with (copied / "split.csv").open("a", newline="") as file:
        writer = csv.writer(file)
        for take in range(18):
            name = f"{'dog' if take % 2 else 'cat'}/new {take}.mp4"
            clip = movie(grown / name, take % 2, 500 + take)
            digest = ClipFiles("", "", "", (("movie", clip),)).digest()
            writer.writerow((name, name[:3], name, "development", digest))
    movie(grown / "cat" / "unseen.mp4", 0, 900)
    options = CalibrateOptions(copied, grown, steps="2", examples=0, device="cpu")
    card = calibrate(options, Console(quiet=True))
    assert card.calibration is not None
    assert card.calibration.fitted_on == "20 development clips"
    assert measure(copied, grown, tmp_path / "figures")["accuracy, both streams"] == 3


def test_a_small_folder_gets_a_score_at_the_end_of_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(voices, "available", lambda: False)  # words take a minute
    monkeypatch.setattr(final_measurement, "EXAMPLES", 40)
    data = movies(tmp_path / "clips", count=5)
    task = replace(SMALL, development_share=0.4)
    out = train(options_of(task, data, tmp_path / "runs" / "mine", epochs=1))
    card = checkpoint.load(out)[1]
    assert card.domain is not None
    assert set(card.domain.features) == {"audio+visual", "audio", "visual"}
    assert card.calibration is not None
    assert card.calibration.temperature.keys() == {2}
    unsure = "4 clips chose the epoch, and 20 or more are needed to be sure"
    assert {
        f"calibration: the probabilities are unsure: {unsure}",
        f"calibration: the out-of-distribution score is unsure: {unsure}",
    } <= set(card.notes)
    printed = " ".join(capsys.readouterr().out.split())
    assert unsure in printed
    assert "what helps: add clips, or train with a higher --development-share" in printed
    options = CalibrateOptions(out, data, steps="1", device="cpu")
    later = calibrate(options, Console(quiet=True))
    assert later.calibration is not None
    assert later.calibration.temperature.keys() == {1, 2}
    assert (later.domain, set(later.notes)) == (card.domain, set(card.notes))


@pytest.mark.parametrize(
    ("options", "is_mirrored"),
    [({}, True), ({"mirror": False}, False), ({"augment": False}, False)],
)
def test_known_clips_of_a_checkpoint_are_mirrored_only_where_its_training_did(
    options: dict[str, bool], is_mirrored: bool, data: Path, tmp_path: Path
) -> None:
    task = replace(SMALL, **options).for_data(data)
    card = make_card(TrainOptions.of(task, data), 0)
    loaded = task_of_card(card, tmp_path)
    assert isinstance(loaded, FolderTask)
    known = replace(loaded, checkpoint=None).load(data).known_examples(tmp_path)
    assert known.augment
    assert known.mirror == is_mirrored


def test_a_folder_that_is_too_small_is_not_calibrated_and_training_says_why(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = train(options_of(SMALL, data, tmp_path / "run", epochs=1, test_clips=0))
    assert checkpoint.load(out)[1].calibration is None
    printed = " ".join(capsys.readouterr().out.split())
    assert "not calibrated: 2 development clips: 4 are needed to calibrate; add clips" in printed


def test_an_evaluation_without_its_table_or_with_foreign_data_is_refused(
    run: Path, data: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(run, tmp_path / "copied"))
    rows = "file,label,group,split,sha256\na.mp4,cat,a,somewhere,0\n"
    (copied / "split.csv").write_text(rows)
    with pytest.raises(DataError, match=r"split\.csv: damaged; it must have columns file, label"):
        measure(copied, data, tmp_path)
    (copied / "split.csv").unlink()
    with pytest.raises(DataError, match=r"split\.csv: .* it lists the clips that were trained on"):
        measure(copied, data, tmp_path)
    foreign = movies(tmp_path / "birds", ("cat", "crow"), 3)
    message = (
        r"classes crow are not those of the checkpoint, cat, dog \(.* data of its task, folder, "
    )
    with pytest.raises(DataError, match=message):
        measure(run, foreign, tmp_path)
    with pytest.raises(
        DataError, match=r"in 0 clips\n.*\n.*lies in no class; move it to .*/CLASS/"
    ):
        measure(run, foreign / "cat", tmp_path)
    text = (run / "card.json").read_text().replace(f'"data": "{data}"', '"data": "nowhere"')
    assert "nowhere" in text
    (copied / "card.json").write_text(text)
    message = "nowhere, .* is not here.* data of its task, folder, with --data: Folder of DIR/CLASS"
    with pytest.raises(DataError, match=message):
        evaluate(EvaluateOptions(copied, None, tmp_path))
    measured_folder = tmp_path / "seen"
    with (run / "split.csv").open(newline="") as file:
        trained = [row["file"] for row in csv.DictReader(file) if row["split"] == "train"]
    for name in trained:
        (measured_folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(data / name, measured_folder / name)
    with pytest.raises(DataError, match="no clip is left to measure"):
        measure(run, measured_folder, tmp_path)


def test_a_card_of_other_streams_is_not_of_this_task(run: Path, tmp_path: Path) -> None:
    card = checkpoint.load(run)[1]
    card = card.model_copy(update={"streams": {"touch": card.streams["audio"]}})
    with pytest.raises(CheckpointError, match="touch: streams of this task are audio, visual"):
        task_of_card(card, tmp_path)


def test_a_run_is_resumed_and_not_with_other_clips(data: Path, tmp_path: Path) -> None:
    whole = options_of(SMALL, data, tmp_path / "whole", epochs=2)
    train(whole)
    begun = options_of(SMALL, data, tmp_path / "begun", epochs=2, patience=1, select_by="loss")
    train(begun)
    train(replace(begun, resume=True, patience=0))
    states = [(run.out / "metrics.csv").read_text() for run in (whole, begun)]
    assert states[0] == states[1]
    other = movies(tmp_path / "other", count=5)
    with pytest.raises(RunError, match="--data contents of SHA-256"):
        train(options_of(SMALL, other, tmp_path / "begun", epochs=2, resume=True))


def test_a_training_that_does_not_learn_warns_and_its_card_says_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    idle = options_of(
        SMALL, data, tmp_path / "run", epochs=3, learning_rate=0.0, settle_norms=0,
        select_by="accuracy",
    )  # fmt: skip
    train(idle)
    shown = " ".join(capsys.readouterr().out.split())
    for warning in ("warning: batch norms have seen", "warning: the loss has not fallen: "):
        assert shown.count(warning) == 1
    notes = checkpoint.load(idle.out)[1].notes
    assert any(text.startswith("warning of the training: batch norms") for text in notes)


@pytest.mark.parametrize(
    "parts",
    [
        {"attention": "spatial", "alignment": False, "encoding": "rate"},
        {"attention": "none", "fusion": "concat", "encoding": "latency", "alpha": 0.0},
        {"attention": "temporal", "temperature": 0.5, "embed_dim": 32, "steps": 1},
    ],
)
def test_every_part_of_the_network_is_an_option(
    data: Path, tmp_path: Path, parts: dict[str, object]
) -> None:
    options = options_of(SMALL, data, tmp_path / "run", epochs=1, settle_norms=1, **parts)
    _, card = checkpoint.load(train(options))
    config = card.config
    expected = {
        "attention": None if parts["attention"] == "none" else parts["attention"],
        "alignment": parts.get("alignment", True),
        "fusion": parts.get("fusion", "add"),
        "alpha": parts.get("alpha", 0.5),
        "embed_dim": parts.get("embed_dim", 16),
    }
    assert {name: getattr(config, name) for name in expected} == expected
    assert card.encoding == parts.get("encoding", "direct")
    assert card.steps == parts.get("steps", 2)
    assert card.accuracy
    assert card.training is not None
    aligned = parts.get("alignment", True) and parts["attention"] != "none"
    assert ("alignment" in card.training.notes["loss"]) is aligned


def test_one_stream_alone_is_trained(tmp_path: Path) -> None:
    for number, label in enumerate(("cat", "dog")):
        for take in range(3):
            sound(tmp_path / "sounds" / label / f"{take}.wav", number, take)
            picture(tmp_path / "pictures" / label / f"{take}.png", number, take)
    for name, stream in (("sounds", "audio"), ("pictures", "visual")):
        options = options_of(SMALL, tmp_path / name, tmp_path / f"run-{name}", epochs=1)
        _, card = checkpoint.load(train(options))
        assert list(card.streams) == [stream]
        assert not card.missing_streams
        assert card.training is not None
        assert "alignment" not in card.training.notes["loss"]
        counts = measure(tmp_path / f"run-{name}", tmp_path / name, tmp_path / "figures")
        assert counts["accuracy, one stream"] == 2


def test_a_run_starts_from_a_checkpoint_of_other_labels_and_sizes(
    run: Path, tmp_path: Path
) -> None:
    for number, label in enumerate(("cow", "dog", "hen")):
        for take in range(3):
            picture(tmp_path / "pictures" / label / f"{take}.png", number, take)
            sound(tmp_path / "sounds" / label / f"{take}.wav", number, take)
    task = replace(SMALL, picture_size=64)
    still = {"learning_rate": 0.0, "epochs": 1}
    wide = options_of(
        task, tmp_path / "pictures", tmp_path / "a", embed_dim=32, init_from=run, **still
    )
    network, card = checkpoint.load(train(wide))
    source, _ = checkpoint.load(run)
    ours, theirs = network.state_dict(), source.state_dict()
    name = "patch.visual.stages.0.conv.weight"
    assert torch.equal(ours[name], theirs[name].repeat_interleave(2, 0))
    dog = ours["head.weight"][card.labels.index("dog")].unflatten(0, (16, 2)).sum(1)
    torch.testing.assert_close(dog, theirs["head.weight"][1])
    assert card.training is not None
    assert "scmrl train folder" in card.training.notes["init_from"]

    sounds = options_of(
        task, tmp_path / "sounds", tmp_path / "b", init_from=tmp_path / "a", **still
    )
    with pytest.raises(OptionsError, match=r"--init-from .* has 32 channels; use --channels 32,"):
        train(sounds)
    with pytest.raises(OptionsError, match="no part of its network fits: its streams are others"):
        train(replace(sounds, embed_dim=32))


def test_preprocessing_is_taken_from_a_checkpoint(data: Path, run: Path, tmp_path: Path) -> None:
    task = replace(SMALL, like=run, picture_size=64).for_data(data)
    assert task.specs == SMALL.for_data(data).specs
    for take in range(3):
        for number, label in enumerate(("cat", "dog")):
            sound(tmp_path / "sounds" / label / f"{take}.wav", number, take)
    task = replace(SMALL, like=run).for_data(tmp_path / "sounds")
    assert list(task.specs) == ["audio"]
    one = options_of(SMALL, tmp_path / "sounds", tmp_path / "run", epochs=1)
    with pytest.raises(OptionsError, match=r"--like .*: has no stream visual"):
        replace(SMALL, like=train(one)).for_data(data)
    of_events = rf"--like {ROOT}/weights/ndigits-events: its stream audio takes audio_events, not a"
    with pytest.raises(OptionsError, match=of_events):
        replace(SMALL, like=ROOT / "weights" / "ndigits-events").for_data(data)


def test_a_checkpoint_to_start_from_is_read_before_the_clips(data: Path, tmp_path: Path) -> None:
    """To decode them may take hours."""
    options = options_of(SMALL, data, tmp_path / "run", init_from=tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"nowhere/card.json: No such file"):
        train(options)
    assert list(tmp_path.iterdir()) == []
