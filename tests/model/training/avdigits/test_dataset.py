"""Scenes, recordings and clips match their descriptions, and faults of data are named."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.config import MAX_STEPS
from model.media.reader import read_clip
from model.training.avdigits import folder as data_folder
from model.training.avdigits.clips import labelled_clip, labelled_clips
from model.training.avdigits.dataset import VISUAL, Scenes
from model.training.avdigits.scene import draw_scene
from model.training.batches import Batches
from model.training.speech import spectrogram
from model.training.task import BatchPlan, DataError

pytestmark = pytest.mark.slow

DIGIT = np.zeros((28, 28), np.uint8)
DIGIT[4:24, 11:17] = 255


@given(seed=st.integers(0, 10_000), difficulty=st.floats(0, 1))
@settings(max_examples=60)
def test_the_digit_is_inside_its_box_and_the_box_inside_the_frame(
    seed: int, difficulty: float
) -> None:
    scene = draw_scene(DIGIT, np.random.default_rng(seed), difficulty=difficulty)
    height, width = scene.paper.shape[:2]
    left, top, right, bottom = scene.box
    assert -1 <= left < right <= width + 1
    assert -1 <= top < bottom <= height + 1
    ys, xs = np.nonzero(scene.cover > 0.9)
    slack = 0.06 * height + 2  # a blurred edge reaches beyond the ink
    assert ys.min() >= top - slack
    assert ys.max() <= bottom + slack
    assert xs.min() >= left - slack
    assert xs.max() <= right + slack


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40)
def test_ink_contrasts_with_paper(seed: int) -> None:
    scene = draw_scene(DIGIT, np.random.default_rng(seed), difficulty=0.0)
    frame = scene.frame().astype(float)
    ink = frame[scene.cover > 0.95]
    if len(ink):
        paper = frame[scene.cover < scene.cover.min() + 0.02].mean(0)
        assert np.abs(ink.mean(0) - paper).max() > 30


def test_a_digit_being_written_shows_its_upper_part_only() -> None:
    scene = draw_scene(DIGIT, np.random.default_rng(1))
    whole, half = scene.frame(), scene.frame(shown=0.5)
    middle = round((scene.box[1] + scene.box[3]) / 2)
    assert np.array_equal(whole[: middle - 1], half[: middle - 1])
    assert not np.array_equal(whole[middle + 1 :], half[middle + 1 :])


def test_training_never_sees_what_is_held_out(avdigits_folder: Path) -> None:
    training, held_out = data_folder.load(avdigits_folder)
    for digit in range(10):
        assert len(training.pictures[digit]) == 18
        assert len(held_out.pictures[digit]) == 2
        words = {word.tobytes() for word in training.words[digit]}
        assert len(words) == 8
        assert not words & {word.tobytes() for word in held_out.words[digit]}


@pytest.mark.parametrize("name", ["handwriting.npz", "speech/3_lucas_1.wav"])
def test_a_damaged_file_is_named(avdigits_folder: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(avdigits_folder, tmp_path / "data")
    (tmp_path / "data" / name).write_bytes(b"damaged")
    with pytest.raises(DataError, match=Path(name).name):
        data_folder.load(tmp_path / "data")


@pytest.fixture
def folder(avdigits_folder: Path, tmp_path: Path) -> Path:
    """A copy of the data, to be changed."""
    return Path(shutil.copytree(avdigits_folder, tmp_path / "data"))


def refusal(folder: Path) -> str:
    with pytest.raises(DataError) as raised:
        data_folder.load(folder)
    return str(raised.value)


@pytest.mark.parametrize(
    "name",
    [
        "x_lucas_1.wav", "12_lucas_1.wav", "-1_lucas_1.wav", "3_lucas.wav", "3_lucas_one.wav",
        "3_lucas_1_2.wav", "3-lucas-1.wav", "word.wav", "3_lucas_1.WAV", "٣_lucas_1.wav", ".wav",
    ],
)  # fmt: skip
def test_a_wrong_file_name_is_refused(folder: Path, name: str) -> None:
    source = folder / "speech" / "3_lucas_0.wav"
    shutil.copy(source, folder / "speech" / name)
    message = refusal(folder)
    assert message.startswith(f"{folder / 'speech'}: {name}: its name is not DIGIT_SPEAKER_TAKE")


def test_what_is_no_recording_is_left_alone(folder: Path) -> None:
    (folder / "speech" / "README.md").write_text("spoken digits")
    (folder / "speech" / "3_lucas_0.txt").write_text("three")
    data_folder.load(folder)


def test_all_faults_of_files_are_named_together(folder: Path) -> None:
    speech = folder / "speech"
    (speech / "1_lucas_0.wav").write_bytes(b"damaged")
    soundfile.write(speech / "2_lucas_0.wav", np.zeros(100), 16_000)
    soundfile.write(speech / "3_lucas_0.wav", np.zeros((100, 2)), 8000)
    soundfile.write(speech / "4_lucas_0.wav", np.zeros(0), 8000)
    soundfile.write(speech / "5_lucas_0.wav", np.full(9, np.nan), 8000, subtype="FLOAT")
    (speech / "six.wav").write_bytes(b"")
    message = refusal(folder)
    for expected in (
        "1_lucas_0.wav: cannot be read: ",
        "2_lucas_0.wav: 16000 Hz instead of 8000",
        "3_lucas_0.wav: 2 channels instead of 1",
        "4_lucas_0.wav: has no samples",
        "5_lucas_0.wav: has values that are not finite",
        "six.wav: its name is not ",
    ):
        assert expected in message
    for number in range(20):
        (speech / f"{number}.wav").write_bytes(b"")
    assert message.count(".wav: ") == 6
    assert refusal(folder).endswith("; and 18 more")


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ("3_lucas_*.wav 3_jackson_*.wav", "speech/3_SPEAKER_*.wav: none of a speaker other than"),
        ("4_george_*.wav", "speech/4_george_*.wav: none there; 2 are needed"),
        ("5_george_[0-2].wav", "speech/5_george_*.wav: 1 there; 2 are needed"),
        ("*_george_*.wav", "needs recordings of george and of at least one other"),
        ("*_lucas_*.wav *_jackson_*.wav", "needs recordings of george and of at least one other"),
    ],
)
def test_a_digit_without_recordings_is_named(folder: Path, missing: str, expected: str) -> None:
    for pattern in missing.split():
        for file in (folder / "speech").glob(pattern):
            file.unlink()
    assert expected in refusal(folder)


@pytest.mark.parametrize("count", [0, 1, 14])
def test_a_digit_with_too_few_pictures_is_named(folder: Path, count: int) -> None:
    with np.load(folder / "handwriting.npz") as file:
        images, labels = file["images"], file["labels"]
    remaining = np.concatenate([np.flatnonzero(labels != 6), np.flatnonzero(labels == 6)[:count]])
    np.savez(folder / "handwriting.npz", images=images[remaining], labels=labels[remaining])
    assert f"handwriting.npz: {count} images of digit 6; 15 are needed" in refusal(folder)


IMAGES = np.full((300, 28, 28), 255, np.uint8)
DIGITS = (np.arange(300) % 10).astype(np.uint8)
BLANK = np.where(np.arange(300)[:, None, None] == 7, 0, IMAGES).astype(np.uint8)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"images": IMAGES}, "labels"),
        ({"images": IMAGES[0], "labels": DIGITS}, "images are uint8 [28, 28]"),
        ({"images": IMAGES[:, :27], "labels": DIGITS}, "images are uint8 [300, 27, 28]"),
        ({"images": IMAGES.astype(float), "labels": DIGITS}, "images are float64"),
        ({"images": IMAGES, "labels": DIGITS[:299]}, "labels are uint8 [299]"),
        ({"images": IMAGES, "labels": DIGITS.astype(float)}, "labels are float64"),
        ({"images": IMAGES, "labels": DIGITS + 1}, "label 10 of image 9 is not 0 to 9"),
        ({"images": IMAGES, "labels": DIGITS - np.int8(1)}, "label -1 of image 0"),
        ({"images": BLANK, "labels": DIGITS}, "image 7 is blank"),
        ({"images": np.array([None]), "labels": DIGITS}, "cannot be read"),
    ],
)
def test_pictures_that_are_none_are_refused(
    folder: Path, arrays: dict[str, NDArray[Any]], expected: str
) -> None:
    np.savez(folder / "handwriting.npz", **arrays)  # type: ignore[arg-type]
    message = refusal(folder)
    assert message.startswith(f"{folder / 'handwriting.npz'}: ")
    assert expected in message


@given(data=st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_of_pictures_is_refused_by_name(data: st.DataObject, folder: Path) -> None:
    file = folder / "handwriting.npz"
    whole = WHOLE.setdefault(file, file.read_bytes())
    broken = bytearray(whole)
    del broken[data.draw(st.integers(0, len(broken) - 1)) :]
    for _ in range(data.draw(st.integers(0, 3)) if broken else 0):
        broken[data.draw(st.integers(0, len(broken) - 1))] ^= 0xFF
    file.write_bytes(broken)
    assert refusal(folder).startswith(f"{file}: ")


#: A data folder's pictures before they were damaged.
WHOLE: dict[Path, bytes] = {}


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "no" / "handwriting.npz") in refusal(tmp_path / "no")
    (tmp_path / "file").write_text("no folder")
    assert refusal(tmp_path / "file").endswith("Not a directory")


BOTH = ("audio", "visual")


def scenes(folder: Path, *, augmented: bool = True) -> Scenes:
    return Scenes(data_folder.load(folder)[0], seed=5, augmented=augmented)


@pytest.mark.parametrize("kind", ["pictures", "words"])
def test_a_clip_is_made_of_its_own_digit(avdigits_folder: Path, kind: str) -> None:
    """Where all other digits are empty, only clips of this one can be made."""
    examples = scenes(avdigits_folder)
    others = getattr(examples.digits, kind)
    only_fours = tuple(of if digit == 4 else of[:0] for digit, of in enumerate(others))
    examples = replace(examples, digits=replace(examples.digits, **{kind: only_fours}))
    stream = "visual" if kind == "pictures" else "audio"
    for index in range(40):
        label = int(np.random.default_rng([examples.seed, index]).integers(10))
        if label == 4:
            assert examples.example(index, BatchPlan((stream,), 1))[1] == 4
        else:
            with pytest.raises(ValueError, match="high"):
                examples.example(index, BatchPlan((stream,), 1))


def test_a_labelled_clip_is_made_of_its_own_digit(avdigits_folder: Path) -> None:
    digits = data_folder.load(avdigits_folder)[1]
    for kind in ("pictures", "words"):
        of_digits = enumerate(getattr(digits, kind))
        only_fours = tuple(of if digit == 4 else of[:0] for digit, of in of_digits)
        only = replace(digits, **{kind: only_fours})
        assert labelled_clip(only, 4, np.random.default_rng(0)).label == 4
        with pytest.raises(ValueError, match="high"):
            labelled_clip(only, 5, np.random.default_rng(0))


def test_scenes_are_not_augmented_unless_for_training(
    avdigits_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counted(tensor: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        calls.append(1)
        return augment(tensor, rng)

    augment = spectrogram.augment_spectrogram
    monkeypatch.setattr(spectrogram, "augment_spectrogram", counted)
    scenes(avdigits_folder, augmented=False).example(0, BatchPlan(BOTH))
    assert not calls
    scenes(avdigits_folder).example(0, BatchPlan(BOTH))
    assert calls


def test_a_batch_has_what_its_plan_says_and_is_repeatable(avdigits_folder: Path) -> None:
    plans = [BatchPlan(BOTH, 3), BatchPlan(("visual",), 2), BatchPlan(("audio",), 4)]
    batches = Batches(scenes(avdigits_folder), 6, lambda i: plans[i])
    for index, plan in enumerate(plans):
        inputs, labels = batches[index]
        assert tuple(inputs) == plan.streams
        assert len(labels) == 6
        if "visual" in inputs:
            assert inputs["visual"].shape == (plan.steps, 6, VISUAL.channels, *VISUAL.size)
        again, _ = batches[index]
        assert all(inputs[name].equal(again[name]) for name in inputs)


def test_scenes_have_as_many_steps_as_the_service_allows(avdigits_folder: Path) -> None:
    examples = scenes(avdigits_folder, augmented=False)
    for index in range(3):
        inputs, _ = examples.example(index, BatchPlan(BOTH, MAX_STEPS))
        assert len(inputs["visual"]) == MAX_STEPS


def test_labelled_clips_are_read_back_as_they_were_made(avdigits_folder: Path) -> None:
    digits = data_folder.load(avdigits_folder)[1]
    clips = list(labelled_clips(digits, 4, seed=2))
    assert [clip.label for clip in clips] == [0, 1, 2, 3]
    for clip in clips:
        read = read_clip(clip.data, 3)
        assert read.sound is not None
        assert read.pictures is not None
        assert len(read.pictures.frames) == 3
        assert read.pictures.frames[0].shape[:2] == clip.size
        samples = read.sound.samples.mean(0)
        rate = read.sound.sample_rate
        word = samples[round(clip.begin * rate) : round(clip.end * rate)]
        assert np.mean(word**2) > 2 * np.mean(samples**2) * 0.5
