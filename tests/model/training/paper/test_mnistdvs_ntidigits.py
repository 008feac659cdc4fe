"""The task mnistdvs-ntidigits: both data sets are checked, paired and split, trained on and
measured."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from rich.console import Console

from model import checkpoint
from model.preprocess.profiles import PROFILES
from model.preprocess.specs import EventFrameSpec
from model.training.calibrate import calibrate
from model.training.checkpoint_task import task_of_card
from model.training.evaluate import evaluate
from model.training.evaluation_options import CalibrateOptions, EvaluateOptions
from model.training.folder.split import DEVELOPMENT, TEST, TRAIN
from model.training.options import OptionsError, TrainOptions
from model.training.paper.event_examples import shift_frames
from model.training.paper.event_pairs import EventPairData
from model.training.paper.mnist_dvs import list_mnist_dvs
from model.training.paper.mnistdvs_ntidigits import MNISTDVSNTIDigits
from model.training.paper.ntidigits import list_ntidigits
from model.training.task import BatchPlan, DataError
from model.training.train import train
from model.training.training_card import network_config
from tests.model.training.paper.data_folders import mnist_dvs, mnistdvs_ntidigits, ntidigits

pytestmark = [pytest.mark.usefixtures("one_core")]

#: The tiny folder lacks most of the published recordings.
PARTIAL = MNISTDVSNTIDigits(skip_faulty=True)
QUICK = {"epochs": 1, "batch": 10, "embed_dim": 16, "steps": 2, "device": "cpu"}
BOTH = ("audio", "visual")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mnistdvs_ntidigits(tmp_path_factory.mktemp("events"))


def loaded(task: MNISTDVSNTIDigits, data: Path) -> EventPairData:
    return task.for_data(data).load(data)


def refused(task: MNISTDVSNTIDigits, data: Path, cache: Path) -> str:
    """The message of a folder that is not trained on."""
    with pytest.raises(DataError) as raised:
        loaded(task, data).training_examples(0, cache)
    return str(raised.value)


def test_the_papers_hyperparameters_are_the_defaults(data: Path) -> None:
    task = PARTIAL.for_data(data)
    options = TrainOptions.of(task, data, batch=4)
    assert (options.epochs, options.steps, options.embed_dim) == (100, 16, 256)
    assert (options.clips, options.development_clips) == (20, 20)
    assert task.labels == tuple("0123456789")
    assert task.specs == PROFILES["mnistdvs_ntidigits"]
    config = network_config(options)
    assert {stream.splitting for stream in config.streams.values()} == {"shallow"}
    assert {stream.tokens for stream in config.streams.values()} == {49}


def test_a_larger_scale_has_a_larger_window(tmp_path: Path) -> None:
    mnist_dvs(tmp_path, per_digit=2, scale=16)
    ntidigits(tmp_path / "N-TIDIGITS18" / "n-tidigits.hdf5")
    spec = replace(PARTIAL, scale="16").for_data(tmp_path).specs["visual"]
    assert isinstance(spec, EventFrameSpec)
    assert (spec.window, spec.size) == ((112, 112), (28, 28))
    with pytest.raises(DataError, match="no recording of MNIST-DVS at scale 4; it must hold grab"):
        PARTIAL.for_data(tmp_path)
    with pytest.raises(OptionsError, match="--scale 5: must be one of 4, 8, 16"):
        MNISTDVSNTIDigits(scale="5")


def test_recordings_are_found_by_name_at_one_scale(data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "events"))
    mnist_dvs(folder, per_digit=1, scale=8)
    recordings, _ = list_mnist_dvs(folder, "4")
    assert len(recordings) == 40
    assert [each.digit for each in recordings] == sorted(4 * list(range(10)))
    assert recordings[1].path.name == "mnist_0_scale04_0002.aedat"
    assert len(list_mnist_dvs(folder, "8")[0]) == 10


def test_single_digits_are_read_and_oh_has_no_class(data: Path) -> None:
    spoken = list_ntidigits(data)
    counts = Counter((sample.part, sample.digit) for sample in spoken.samples)
    assert counts == {(p, d): n for p, n in (("train", 3), ("test", 2)) for d in range(10)}
    assert spoken.left_out == 5
    sample = next(
        each for each in spoken.samples if each.name == "tman-bb-z" and each.part == "train"
    )
    assert (sample.digit, sample.speaker) == (0, "tman-bb")
    events = spoken.read(sample)
    with h5py.File(data / "n-tidigits.hdf5") as file:
        seconds = np.asarray(file["train_timestamps/tman-bb-z"])
        assert np.array_equal(events.channel, file["train_addresses/tman-bb-z"])
    assert np.array_equal(events.time_us, (seconds * 1e6).astype(int))


def test_tonic_reads_the_same_samples(data: Path, tmp_path: Path) -> None:
    tonic = pytest.importorskip("tonic", reason="needs tonic (pip install)")
    spoken = list_ntidigits(data)
    folder = tmp_path / "NTIDIGITS18"  # where tonic keeps the file, instead of fetching it
    folder.mkdir()
    shutil.copy(data / "n-tidigits.hdf5", folder)
    for train_part in (True, False):
        theirs = tonic.datasets.NTIDIGITS18(str(tmp_path), train=train_part, single_digits=True)
        part = "train" if train_part else "test"
        ours = {each.name: spoken.read(each) for each in spoken.samples if each.part == part}
        for index, name in enumerate(theirs._samples):
            if name.endswith("-o"):
                continue
            events, _ = theirs[index]
            assert np.array_equal(events["t"], ours[name].time_us)
            assert np.array_equal(events["x"], ours[name].channel)


def test_half_of_each_digits_recordings_are_paired_with_the_files_own_parts(data: Path) -> None:
    part = loaded(PARTIAL, data)
    trained, tested = part.of(TRAIN), part.of(TEST)
    assert Counter(pair.sample.digit for pair in trained) == dict.fromkeys(range(10), 2)
    assert Counter(pair.sample.digit for pair in tested) == dict.fromkeys(range(10), 2)
    assert not {p.recording for p in trained} & {p.recording for p in tested}
    assert {pair.sample.part for pair in trained} == {"train"}
    assert {pair.sample.part for pair in tested} == {"test"}
    assert all(pair.recording.digit == pair.sample.digit for pair in (*trained, *tested))
    other = loaded(replace(PARTIAL, split_seed=1), data).of(TRAIN)
    assert {p.recording for p in other} != {p.recording for p in trained}


def test_samples_are_used_again_where_there_are_fewer(data: Path, tmp_path: Path) -> None:
    folder = mnist_dvs(tmp_path, per_digit=10)
    ntidigits(folder / "n-tidigits.hdf5")
    names = [pair.sample.name for pair in loaded(PARTIAL, folder).of(TRAIN)[:5]]
    assert len(set(names)) == 3
    assert names == [*names[:3], *names[:2]]


def test_held_back_pairs_share_neither_recording_nor_speaker(data: Path) -> None:
    parts = loaded(replace(PARTIAL, development_share=0.4), data)
    trained, chosen = parts.of(TRAIN), parts.of(DEVELOPMENT)
    assert len(trained) == len(chosen) == 10
    assert not {p.recording for p in trained} & {p.recording for p in chosen}
    assert not {p.sample.speaker for p in trained} & {p.sample.speaker for p in chosen}


def test_all_mistakes_are_reported_at_once_before_training(data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "events"))
    scale = folder / "grabbed_data3" / "scale4"
    (scale / "mnist_3_scale04_0002.aedat").write_bytes(b"#!AER-DAT2.0\r\n")
    (scale / "mnist_3_scale04_0003.aedat").write_bytes(b"junk")
    shutil.copy(scale / "mnist_3_scale04_0001.aedat", folder / "mnist_3_scale04_0001.aedat")
    shutil.copy(scale / "mnist_3_scale04_0001.aedat", scale / "three.aedat")
    with h5py.File(folder / "n-tidigits.hdf5", "r+") as file:
        del file["train_timestamps/tman-aa-5"]
        del file["test_addresses/tman-bb-6"]
        file["test_addresses/tman-bb-6"] = np.array([64.0])
        del file["test_timestamps/tman-bb-6"]
        file["test_timestamps/tman-bb-6"] = np.array([0.5])
        labels = [*np.asarray(file["train_labels"]), b"tman-aa-q"]
        del file["train_labels"]
        file["train_labels"] = np.array(labels)
    text = refused(MNISTDVSNTIDigits(), folder, tmp_path)
    for line in (
        "grabbed_data3/scale4/three.aedat: is not named mnist_DIGIT_scaleNN_NUMBER.aedat",
        "n-tidigits.hdf5, train, tman-aa-q: q: must be one of z, 1, 2, 3, 4, 5, 6, 7, 8, 9, o",
        "MNIST-DVS, digit 3: 4 of 1000 recordings at scale 4 are there; absent are 0005, 0006,",
        "n-tidigits.hdf5, train, tman-aa-5: there is no train_timestamps/tman-aa-5",
        "is the same recording as grabbed_data3/scale4/mnist_3_scale04_0001.aedat",
        "scale4/mnist_3_scale04_0002.aedat: it has no events",
        "scale4/mnist_3_scale04_0003.aedat: it is in no format of events that is read",
        "n-tidigits.hdf5, test, tman-bb-6: it has channels from 64.0 to 64.0; there are 0 to 63",
        "correct these files, or train without them: --skip-faulty",
    ):
        assert line in text, text
    left = loaded(PARTIAL, folder)
    left.training_examples(0, tmp_path)
    assert len(left.of(TRAIN)) + len(left.of(TEST)) == 40 - 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no n-tidigits.hdf5 of N-TIDIGITS18"),
        (b"junk", "n-tidigits.hdf5: is not N-TIDIGITS18, or damaged"),
        ("empty", "it has no train_labels and no train_addresses and no train_timestamps"),
    ],
)
def test_another_hdf5_file_is_refused(
    tmp_path: Path, content: bytes | str | None, message: str
) -> None:
    mnist_dvs(tmp_path, per_digit=2)
    file = tmp_path / "n-tidigits.hdf5"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content:
        h5py.File(file, "w").close()
    with pytest.raises(DataError, match=message):
        PARTIAL.for_data(tmp_path)


def test_a_digit_without_samples_is_refused(data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "events"))
    with h5py.File(folder / "n-tidigits.hdf5", "r+") as file:
        labels = [label for label in file["test_labels"] if not label.endswith(b"-7")]
        del file["test_labels"]
        file["test_labels"] = np.array(labels)
    assert "7: has no recording and sample to test on" in refused(PARTIAL, folder, tmp_path)


def test_frames_are_moved_and_stay_what_they_were_from_one_turn_to_the_next(
    data: Path, tmp_path: Path
) -> None:
    part = loaded(PARTIAL, data)
    examples = part.training_examples(0, tmp_path)
    plan = BatchPlan(BOTH, 4)
    count = len(examples.pairs)
    turns = [{}, {}]  # type: ignore[var-annotated]
    for index in range(2 * count):
        streams, label = examples.example(index, plan)
        assert streams["audio"].shape == (4, 1, 28, 28)
        assert streams["visual"].shape == (4, 2, 28, 28)
        turns[index // count][streams["audio"].tobytes(), label] = streams["visual"].tobytes()
    assert len(turns[0]) == count
    assert turns[0] == turns[1]  # one version of each pair, as published
    free = replace(examples, copies=0)
    versions = {free.example(i * count, plan)[0]["visual"].tobytes() for i in range(6)}
    assert len(versions) > 4
    still, label = examples.example(0, BatchPlan(BOTH, 4, difficulty=0.0))
    plain = part.development_examples()
    whole = [plain._tensor("visual", part.specs["visual"], pair, 4) for pair in examples.pairs]
    assert any(np.array_equal(still["visual"], tensor) for tensor in whole)
    assert still["visual"].max() > 1


def test_frames_are_moved_onto_no_events() -> None:
    spec = PROFILES["mnistdvs_ntidigits"]["visual"]
    assert isinstance(spec, EventFrameSpec)
    empty = np.float32(-spec.mean / spec.std)
    tensor = np.full((2, 2, 28, 28), empty, np.float32)
    tensor[:, :, 14, 14] = 5
    places = set()
    for seed in range(300):
        moved = shift_frames(tensor, spec, np.random.default_rng(seed), 4)
        assert moved.shape == tensor.shape
        assert set(np.unique(moved)) == {empty, np.float32(5)}
        places.add(tuple(np.argwhere(moved[0, 0] == 5)[0].tolist()))
    assert {place[0] for place in places} == {place[1] for place in places} == set(range(10, 19))


@pytest.mark.slow
def test_a_run_is_measured_calibrated_and_is_of_the_task(data: Path, tmp_path: Path) -> None:
    task = replace(PARTIAL, development_share=0.4).for_data(data)
    run = train(TrainOptions.of(task, data, out=tmp_path / "run", **QUICK))
    network, card = checkpoint.load(run)
    assert card.labels == tuple("0123456789")
    assert card.streams == PROFILES["mnistdvs_ntidigits"]
    assert {stream.splitting for stream in network.config.streams.values()} == {"shallow"}
    assert [source.name for source in card.data] == ["MNIST-DVS", "N-TIDIGITS18"]
    assert card.training is not None
    assert card.training.notes["left_out"] == '5 samples of "oh"'
    measured = {m.what: m for m in card.accuracy}
    assert measured["accuracy, both streams"].n == 20
    task_again = task_of_card(card, run)
    assert isinstance(task_again, MNISTDVSNTIDigits)
    assert task_again.load(data).of(TEST) == task.load(data).of(TEST)
    options = EvaluateOptions(run, None, tmp_path, clips=20, curve_clips=2, device="cpu")
    counts = {m.what: m.n for m in evaluate(options, Console(quiet=True)).accuracy}
    assert counts["accuracy, both streams"] == 20
    assert counts["accuracy, both streams, T = 8"] == 2
    assert not any("noise" in measure for measure in counts)
    calibration = calibrate(CalibrateOptions(run, data), Console(quiet=True)).calibration
    assert calibration is not None
    assert calibration.fitted_on.startswith("10 development clips")
