"""The task crema-d: its folder is checked and split as published, trained on and measured."""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

from model import checkpoint
from model.preprocess.profiles import PROFILES
from model.training.calibrate import calibrate
from model.training.checkpoint_task import task_of_card
from model.training.evaluate import evaluate
from model.training.evaluation_options import CalibrateOptions, EvaluateOptions
from model.training.folder.split import DEVELOPMENT, TEST, TRAIN
from model.training.options import OptionsError, TrainOptions
from model.training.paper.crema_d import EMOTIONS, CremaD, list_crema_d, published_test_names
from model.training.schedule import Schedule
from model.training.task import DataError
from model.training.train import train
from tests.model.training.paper.data_folders import crema_d, crema_d_names, flv, wav

pytestmark = [pytest.mark.usefixtures("one_core")]

#: Options of a training of seconds. The tiny folder lacks most of the published test clips.
QUICK = {"epochs": 1, "batch": 4, "embed_dim": 16, "device": "cpu", "test_clips": 5}
PARTIAL = CremaD(skip_faulty=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return crema_d(tmp_path_factory.mktemp("crema-d"))


def options_of(task: CremaD, data: Path, out: Path, **changes: object) -> TrainOptions:
    return TrainOptions.of(task.for_data(data), data, out=out, **{**QUICK, **changes})


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(options_of(PARTIAL, data, tmp_path_factory.mktemp("runs")))


def refused(task: CremaD, data: Path, cache: Path) -> str:
    """The message of a folder that is not trained on."""
    with pytest.raises(DataError) as raised:
        task.for_data(data).load(data).training_examples(0, cache)
    return str(raised.value)


def test_the_published_test_set_has_the_papers_numbers_in_each_class() -> None:
    counts = Counter(name.split("_")[2] for name in published_test_names())
    assert counts == {"ANG": 105, "DIS": 129, "FEA": 133, "HAP": 123, "NEU": 114, "SAD": 140}
    assert len({name[:4] for name in published_test_names()}) == 91


def test_the_papers_hyperparameters_are_the_defaults(data: Path) -> None:
    task = PARTIAL.for_data(data)
    options = TrainOptions.of(task, data, batch=4)
    assert (options.epochs, options.steps, options.embed_dim) == (100, 4, 256)
    assert options.peak_learning_rate == pytest.approx(5e-3 * 4 / 1024)
    assert (options.alpha, options.temperature, options.label_smoothing) == (1.5, 0.07, 0.1)
    assert (options.weight_decay, options.warmup_epochs) == (1e-4, 5)
    assert task.defaults["batch"] == 128
    assert task.labels == tuple(EMOTIONS) == ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
    assert task.specs == PROFILES["crema_d"]
    schedule = Schedule(options, 10)
    assert {schedule.plan(step).steps for step in range(1000)} == {4}
    assert {schedule.plan(step).difficulty for step in range(1000)} == {1.0}
    assert schedule.learning_rate(49) == pytest.approx(options.peak_learning_rate)
    assert schedule.learning_rate(999) == pytest.approx(1e-5, rel=1e-2)


def test_clips_are_paired_by_name_in_groups_by_actor(data: Path) -> None:
    listing = list_crema_d(data)
    assert not listing.findings
    assert len(listing.clips) == len(crema_d_names())
    clip = next(clip for clip in listing.clips if "1060_DFA_ANG_XX" in clip.name)
    assert clip.name == "VideoFlash/1060_DFA_ANG_XX.flv + AudioWAV/1060_DFA_ANG_XX.wav"
    assert (clip.label, clip.group) == ("ANG", "1060")


def test_sound_is_the_wav_and_the_picture_the_middle_frame(tmp_path: Path) -> None:
    name = "1060_DFA_ANG_XX"
    flv(tmp_path / "VideoFlash" / f"{name}.flv", 0)
    wav(tmp_path / "AudioWAV" / f"{name}.wav", 0, seconds=0.75)
    (clip,) = list_crema_d(tmp_path).clips
    decoded = clip.decode(1, frozenset({"audio", "visual"}))
    assert decoded.sound is not None
    assert decoded.pictures is not None
    assert (decoded.sound.sample_rate, decoded.sound.duration_s) == (16_000, 0.75)
    all_frames = clip.decode(9, frozenset({"visual"})).pictures
    assert all_frames is not None
    (middle,) = decoded.pictures.frames
    assert np.array_equal(middle, all_frames.frames[4])
    assert middle.mean() > all_frames.frames[0].mean() + 20


def test_all_mistakes_are_reported_at_once_before_training(data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "crema-d"))
    video, audio = folder / "VideoFlash", folder / "AudioWAV"
    (audio / "1060_DFA_ANG_XX.wav").unlink()
    (video / "1061_DFA_DIS_XX.flv").unlink()
    flv(video / "1060_DFA_JOY_XX.flv", 0)
    wav(audio / "1060_DFA_JOY_XX.wav", 0)
    flv(video / "portrait.flv", 0)
    flv_file = video / "1062_DFA_FEA_XX.flv"
    flv_file.write_bytes(flv_file.read_bytes()[:150])
    (video / "1063_DFA_HAP_XX.flv").write_text("version https://git-lfs.github.com/spec/v1\n")
    (audio / "1064_DFA_NEU_XX.wav").write_bytes(b"")
    text = refused(CremaD(), folder, tmp_path / "cache")
    for line in (
        "    VideoFlash/portrait.flv: is not named ACTOR_SENTENCE_EMOTION_LEVEL",
        " + AudioWAV/1060_DFA_JOY_XX.wav: JOY: must be one of ANG, DIS, FEA, HAP, NEU, SAD",
        "    VideoFlash/1060_DFA_ANG_XX.flv: there is no AudioWAV/1060_DFA_ANG_XX.wav",
        "    AudioWAV/1061_DFA_DIS_XX.wav: there is no VideoFlash/1061_DFA_DIS_XX.flv",
        "1063_DFA_HAP_XX.flv: a pointer of Git LFS; fetch it with git lfs pull",
        "1064_DFA_NEU_XX.wav: the file is empty",
        "  missing file (740)\n",  # 738 test clips are not in the tiny folder
        "  unreadable (2)\n",
        "correct these files, or train without them: --skip-faulty",
    ):
        assert line in text
    assert "1062_DFA_FEA_XX.flv" in text


def test_faulty_clips_are_left_out_where_that_is_asked_for(data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "crema-d"))
    (folder / "AudioWAV" / "1060_DFA_ANG_XX.wav").write_bytes(b"RIFF")
    loaded = PARTIAL.for_data(folder).load(folder)
    loaded.training_examples(0, tmp_path)
    assert len(loaded.of(TRAIN)) == len(crema_d_names()) - 6 - 1
    loaded.record(tmp_path)
    with (tmp_path / "split.csv").open(newline="") as file:
        left_out = [row["file"] for row in csv.DictReader(file) if row["split"] == "left out"]
    assert left_out == ["VideoFlash/1060_DFA_ANG_XX.flv + AudioWAV/1060_DFA_ANG_XX.wav"]


def test_a_silent_clip_is_remarked_on_and_trained_on(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "crema-d"))
    silence = np.zeros(8000, np.float32)
    soundfile.write(folder / "AudioWAV" / "1060_DFA_ANG_XX.wav", silence, 16_000)
    loaded = PARTIAL.for_data(folder).load(folder)
    loaded.training_examples(0, tmp_path)
    assert len(loaded.of(TRAIN)) == len(crema_d_names()) - 6
    shown = " ".join(capsys.readouterr().err.split())
    assert "silent (1) VideoFlash/1060_DFA_ANG_XX.flv" in shown
    assert "trained on nevertheless" in shown


@pytest.mark.parametrize("missing", ["VideoFlash", "AudioWAV"])
def test_another_layout_is_refused(data: Path, tmp_path: Path, missing: str) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "crema-d"))
    shutil.rmtree(folder / missing)
    message = (
        rf"{missing}: cannot be read: .*; .* must hold VideoFlash/\*\.flv and AudioWAV/\*\.wav"
    )
    with pytest.raises(DataError, match=message):
        CremaD().for_data(folder)


def test_a_class_without_clips_is_refused(data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "crema-d"))
    for file in [*folder.glob("*/*_SAD_*")]:
        file.unlink()
    assert "SAD: has no clip to train on" in refused(PARTIAL, folder, tmp_path)


def test_the_published_split_is_that_of_the_list(data: Path) -> None:
    loaded = PARTIAL.for_data(data).load(data)
    tested = {clip.files[0][1].stem for clip in loaded.of(TEST)}
    assert tested == set(crema_d_names()) & published_test_names()
    assert len(tested) == 6
    assert not loaded.of(DEVELOPMENT)
    parts = replace(PARTIAL, development_share=0.2).for_data(data).load(data)
    assert {clip.files[0][1].stem for clip in parts.of(TEST)} == tested
    # One of the three clips of each class.
    assert [clip.label for clip in parts.of(DEVELOPMENT)] == list(CremaD.labels)
    assert len(parts.of(TRAIN)) + 6 == len(loaded.of(TRAIN))


def test_the_other_split_shares_no_actor(data: Path) -> None:
    loaded = CremaD(split="subjects", development_share=0.2).for_data(data).load(data)
    actors = {part: {clip.group for clip in loaded.of(part)} for part in (TRAIN, DEVELOPMENT, TEST)}
    assert all(actors.values())
    assert not actors[TRAIN] & actors[TEST]
    assert not actors[TRAIN] & actors[DEVELOPMENT]
    assert not actors[DEVELOPMENT] & actors[TEST]
    other = CremaD(split="subjects", split_seed=1).for_data(data).load(data)
    assert {clip.group for clip in other.of(TEST)} != actors[TEST]


@pytest.mark.slow
def test_a_run_is_a_checkpoint_of_the_task(run: Path, data: Path) -> None:
    network, card = checkpoint.load(run)
    assert card.labels == CremaD.labels
    assert card.streams == PROFILES["crema_d"]
    assert not card.missing_streams
    assert network.config.alpha == 1.5
    assert card.training is not None
    assert card.training.notes["split"] == "published"
    assert "the published split has 6698 and 744" in card.training.notes["clips"]
    assert card.training.notes["loss"].endswith("semantic alignment (temperature 0.07)")
    (source,) = card.data
    assert source.licence == "Open Database License (ODbL) 1.0"
    measured = {m.what: m for m in card.accuracy}
    assert measured["accuracy, both streams"].n == 5
    conditions = "test clips of CREMA-D, as published, which chose the epoch"
    assert conditions in measured["accuracy, both streams"].conditions


@pytest.mark.slow
def test_a_run_is_evaluated_on_the_published_test_clips(
    run: Path, data: Path, tmp_path: Path
) -> None:
    options = EvaluateOptions(run, None, tmp_path, clips=10, curve_clips=2, device="cpu")
    counts = {m.what: m.n for m in evaluate(options, Console(quiet=True)).accuracy}
    assert counts["accuracy, both streams"] == 6
    assert "accuracy, sound alone" not in counts
    with pytest.raises(DataError, match="no clips but test clips were held back from the training"):
        calibrate(CalibrateOptions(run, data), Console(quiet=True))


@pytest.mark.slow
def test_clips_that_were_trained_on_are_not_measured(data: Path, tmp_path: Path) -> None:
    task = CremaD(split="subjects", skip_faulty=True, missing_streams=True)
    run = train(options_of(task, data, tmp_path / "run", steps=1))
    measured = task_of_card(checkpoint.read_card(run), run)
    assert isinstance(measured, CremaD)
    assert measured.missing_streams
    tested = {clip.name for clip in measured.load(data).test_clips(100, 0)}
    with (run / "split.csv").open(newline="") as file:
        assert tested == {row["file"] for row in csv.DictReader(file) if row["split"] == TEST}
    # The folder has an actor more, so the seed draws others: those trained on stay out.
    grown = Path(shutil.copytree(data, tmp_path / "grown"))
    for number, take in enumerate(("DFA", "IWW", "WSI")):
        flv(grown / "VideoFlash" / f"1000_{take}_ANG_XX.flv", 0, 100 + number)
        wav(grown / "AudioWAV" / f"1000_{take}_ANG_XX.wav", 0, 100 + number)
    with (run / "split.csv").open(newline="") as file:
        trained = {row["file"] for row in csv.DictReader(file) if row["split"] == TRAIN}
    assert not trained & {clip.name for clip in measured.load(grown).test_clips(100, 0)}


def test_an_option_out_of_its_range_is_refused() -> None:
    with pytest.raises(OptionsError, match="--split random: must be one of published, subjects"):
        CremaD(split="random")
    with pytest.raises(OptionsError, match=r"--development-share 0\.9: must be 0 to 0\.5"):
        CremaD(development_share=0.9)
