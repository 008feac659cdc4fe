"""Scenes, recordings and clips hold what they say they hold."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data import avdigits
from model.data.avdigits import Batches, Plan, Scenes
from model.data.clips import labelled_clips
from model.data.picture import draw_scene
from model.data.sound import record
from model.media import read_clip
from model.preprocess import PROFILES

DIGIT = np.zeros((28, 28), np.uint8)
DIGIT[4:24, 11:17] = 255


@given(seed=st.integers(0, 10_000), hardness=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_the_digit_is_inside_its_box_and_the_box_inside_the_frame(
    seed: int, hardness: float
) -> None:
    scene = draw_scene(DIGIT, np.random.default_rng(seed), hardness=hardness)
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
@settings(max_examples=40, deadline=None)
def test_ink_can_be_told_from_paper(seed: int) -> None:
    scene = draw_scene(DIGIT, np.random.default_rng(seed), hardness=0.0)
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


@pytest.mark.parametrize("snr_db", [0.0, 20.0])
def test_noise_has_the_level_that_was_asked_for(snr_db: float) -> None:
    rng = np.random.default_rng(0)
    word = np.sin(np.arange(4000) / 3).astype(np.float32)
    made = record(word, 8000, rng, seconds=(3.0, 3.0), snr_db=snr_db)
    begin, end = round(made.begin * made.rate), round(made.end * made.rate)
    quiet = np.concatenate([made.samples[: max(0, begin - 10)], made.samples[end + 10 :]])
    noise, both = np.mean(quiet**2), np.mean(made.samples[begin:end] ** 2)
    assert 10 * np.log10((both - noise) / noise) == pytest.approx(snr_db, abs=1.0)


def test_training_never_sees_what_is_held_out(avdigits_folder: Path) -> None:
    seen, held_out = avdigits.load(avdigits_folder)
    for digit in range(10):
        assert len(seen.pictures[digit]) == 18
        assert len(held_out.pictures[digit]) == 2
        words = {word.tobytes() for word in seen.words[digit]}
        assert len(words) == 8
        assert not words & {word.tobytes() for word in held_out.words[digit]}


@pytest.mark.parametrize("name", ["handwriting.npz", "speech/3_lucas_1.wav"])
def test_a_damaged_file_is_named(avdigits_folder: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(avdigits_folder, tmp_path / "data")
    (tmp_path / "data" / name).write_bytes(b"damaged")
    with pytest.raises(avdigits.DataError, match=Path(name).name):
        avdigits.load(tmp_path / "data")


def test_a_batch_has_what_its_plan_says_and_is_repeatable(avdigits_folder: Path) -> None:
    audio, visual = PROFILES["avdigits"]["audio"], PROFILES["avdigits"]["visual"]
    scenes = Scenes(avdigits.load(avdigits_folder)[0], audio, visual, seed=5)  # type: ignore[arg-type]
    plans = [Plan(steps=3), Plan(("visual",), 2), Plan(("audio",), 4)]
    batches = Batches(scenes, 6, lambda i: plans[i])
    for index, plan in enumerate(plans):
        inputs, labels = batches[index]
        assert tuple(inputs) == plan.streams
        assert len(labels) == 6
        if "visual" in inputs:
            assert inputs["visual"].shape == (plan.steps, 6, visual.channels, *visual.size)
        again, _ = batches[index]
        assert all(inputs[name].equal(again[name]) for name in inputs)


def test_labelled_clips_are_read_back_as_they_were_made(avdigits_folder: Path) -> None:
    digits = avdigits.load(avdigits_folder)[1]
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
