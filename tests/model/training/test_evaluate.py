"""What an evaluation reports is what it says it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from rich.console import Console

from model import checkpoint
from model.media.reader import Clip, Pictures, Sound
from model.network import SCMRL
from model.preprocess.frames import prepare_frames
from model.preprocess.specs import FrameSpec
from model.training import evaluate
from model.training.avdigits.task import AVDigits
from model.training.faithfulness import HIDDEN, box_mask, content_mask, hide, upsample
from model.training.measures import Accuracy
from model.training.options import EvaluateOptions, TrainOptions
from model.training.perturbations import noisy_pictures, noisy_sound
from model.training.recipe import card

SQUARE = FrameSpec(fit="pad", background="median", resize="area", size=(96, 96), frames="spread")


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(50, 100, 0.4038, 0.5962), (100, 100, 0.9630, 1.0), (0, 100, 0.0, 0.0370)],
)
def test_intervals_are_wilson_s(right: int, count: int, low: float, high: float) -> None:
    assert Accuracy(right, count).interval == pytest.approx((low, high), abs=2e-4)


def clip(seconds: float = 1.0) -> Clip:
    time = np.arange(round(16_000 * seconds)) / 16_000
    sound = Sound(np.sin(2 * np.pi * 440 * time)[None].astype(np.float32) * 0.2, 16_000)
    grey = np.tile(np.linspace(60, 190, 320), (240, 1)).astype(np.uint8)
    pictures = Pictures((np.repeat(grey[:, :, None], 3, 2),) * 2, (0.0, 0.5))
    return Clip(sound=sound, pictures=pictures, sound_problem=None, pictures_problem=None)


@pytest.mark.parametrize("snr_db", [0, 10])
def test_noise_on_the_sound_has_its_level(snr_db: int) -> None:
    before = clip()
    after = noisy_sound(snr_db)(before, np.random.default_rng(0))
    assert before.sound is not None
    assert after.sound is not None
    noise = after.sound.samples - before.sound.samples
    ratio = np.mean(before.sound.samples**2) / np.mean(noise**2)
    assert 10 * np.log10(ratio) == pytest.approx(snr_db, abs=0.3)


def test_noise_on_the_picture_has_its_level() -> None:
    before = clip()
    after = noisy_pictures(10)(before, np.random.default_rng(0))
    assert before.pictures is not None
    assert after.pictures is not None
    plain = before.pictures.frames[0].astype(float)
    noise = after.pictures.frames[0] - plain
    assert 10 * np.log10(plain.var() / noise.var()) == pytest.approx(10, abs=0.5)


def test_hiding_covers_a_fifth_of_the_frame_and_no_padding() -> None:
    pictures = clip().pictures
    assert pictures is not None
    seen = prepare_frames(pictures, SQUARE, 2)
    frame = content_mask(seen)
    assert frame.sum() == 72 * 96  # 4:3 in a square of 96
    grid = np.zeros((6, 6), np.float32)
    grid[2, 1] = 1
    after = hide(seen, upsample(grid, seen))
    changed = np.any(after.tensor != seen.tensor, axis=(0, 1))
    assert not changed[~frame].any()
    assert 0.9 * HIDDEN * frame.sum() <= changed.sum() <= HIDDEN * frame.sum() + 1
    assert changed[32 + 8, 16 + 8]  # the middle of the cell that the map points at


def test_a_box_in_frame_pixels_is_found_in_the_tensor() -> None:
    pictures = clip().pictures
    assert pictures is not None
    mask = box_mask(prepare_frames(pictures, SQUARE, 2), (160.0, 120.0, 320.0, 240.0))
    ys, xs = np.nonzero(mask)
    assert (ys.min(), ys.max()) == (48, 83)
    assert (xs.min(), xs.max()) == (48, 95)


def test_an_evaluation_writes_figures_and_the_card(avdigits_folder: Path, tmp_path: Path) -> None:
    options = TrainOptions.of(AVDigits(), avdigits_folder, embed_dim=16, steps=2)
    described = card(options, 0)
    folder = tmp_path / "weights"
    checkpoint.save(folder, SCMRL(described.config), described)
    asked = EvaluateOptions(
        checkpoint=folder, data=avdigits_folder, out=tmp_path / "figures",
        clips=20, curve_clips=10, attention_clips=5, device="cpu",
    )  # fmt: skip
    console = Console(record=True, width=200, quiet=True)
    measured = evaluate.evaluate(asked, console)
    by_name = {m.what: m for m in measured.accuracy}
    both = by_name["accuracy, both streams"]
    assert both.n == 20
    assert both.low is not None
    assert both.high is not None
    assert 0 <= both.low <= both.value <= both.high <= 1
    assert {f"accuracy, both streams, T = {t}" for t in range(1, 9)} <= set(by_name)
    assert "accuracy, both streams, noise on the sound" in by_name
    assert any(name.startswith("attention: mass over share") for name in by_name)
    for name in ("confusion.png", "noise.png", "steps.png"):
        assert cv2.imread(str(tmp_path / "figures" / name)) is not None
    assert checkpoint.load(folder)[1].accuracy == ()
    evaluate.evaluate(replace(asked, write_card=True), console)
    assert checkpoint.load(folder)[1].accuracy == measured.accuracy
