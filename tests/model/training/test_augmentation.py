"""Augmentation grows with its strength, is drawn by the generator alone, and keeps shapes."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.training.augmentation import (
    augment_sound,
    draw_frames,
    draw_picture_change,
    mask_spectrogram,
)
from tests.model.training.folder.clip_files import RATE, stripes, tone

PICTURE = cv2.GaussianBlur(stripes(3, size=(60, 80)), (0, 0), 2)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_changes_at_strength_0(seed: int) -> None:
    change = draw_picture_change(rng(seed), 0.0, mirror=False)
    assert np.abs(change.apply(PICTURE, rng()).astype(int) - PICTURE).max() <= 1
    samples = tone(440, 0.5)
    assert np.allclose(augment_sound(samples, RATE, rng(seed), 0.0), samples, atol=1e-6)
    spectrogram = rng(1).random((1, 1, 16, 32), np.float32)
    assert np.array_equal(mask_spectrogram(spectrogram, rng(seed), 0.0), spectrogram)


def test_a_mirrored_picture_is_left_to_right() -> None:
    plain = draw_picture_change(rng(), 0.0, mirror=False)
    mirrored = replace(plain, matrix=plain.matrix * np.float32([[-1, 1, 1]] * 3))
    mirrored.matrix[0, 2] = 1.0
    shown = mirrored.apply(PICTURE, rng())[:, 2:-2].astype(int)
    assert np.abs(shown - PICTURE[:, ::-1][:, 1:-3]).mean() < 12
    drawn = [draw_picture_change(rng(seed), 0.0, mirror=True).matrix[0, 0] for seed in range(40)]
    assert 8 < sum(x < 0 for x in drawn) < 32
    assert all(draw_picture_change(rng(s), 1.0, mirror=False).matrix[0, 0] > 0 for s in range(40))


@given(seed=st.integers(0, 10_000), strength=st.floats(0, 1))
@settings(max_examples=60)
def test_pictures_keep_their_size_and_depend_on_the_generator(seed: int, strength: float) -> None:
    first, second = (
        draw_picture_change(rng(seed), strength, mirror=True).apply(PICTURE, rng(seed))
        for _ in range(2)
    )
    assert first.shape == PICTURE.shape
    assert first.dtype == np.uint8
    assert np.array_equal(first, second)
    assert int(first.max()) > int(first.min())


def test_a_greater_strength_changes_more() -> None:
    def distance(strength: float) -> float:
        shown = (
            draw_picture_change(rng(seed), strength, mirror=False).apply(PICTURE, rng(seed))
            for seed in range(20)
        )
        return float(np.mean([np.abs(x.astype(int) - PICTURE).mean() for x in shown]))

    assert distance(0.0) < 0.5 < distance(0.3) < distance(1.0)


def test_each_time_step_has_a_picture_of_its_part_of_the_time() -> None:
    frames = [np.full((4, 4, 3), index, np.uint8) for index in range(16)]

    def shown(strength: float, seed: int = 0) -> list[int]:
        return [int(x[0, 0, 0]) for x in draw_frames(frames, 4, rng(seed), strength)]

    assert shown(0.0) == [2, 6, 10, 14]
    drawn = np.asarray([shown(1.0, seed) for seed in range(200)])
    for step in range(4):
        assert set(drawn[:, step]) == set(range(4 * step, 4 * step + 4))
    assert draw_frames(frames[:1], 4, rng(), 1.0) == frames[:1]
    assert shown(0.0) == [int(x[0, 0, 0]) for x in draw_frames(frames, 4, rng(9), 0.0)]


@given(seed=st.integers(0, 10_000), seconds=st.floats(0.001, 0.5))
@settings(max_examples=60)
def test_a_sound_stays_a_sound(seed: int, seconds: float) -> None:
    samples = tone(440, max(1 / RATE, seconds))
    changed = augment_sound(samples, RATE, rng(seed), 1.0)
    assert changed.dtype == np.float32
    assert 0.5 * len(samples) <= len(changed) + 2 <= 1.6 * len(samples) + 4
    assert np.isfinite(changed).all()
    assert np.array_equal(changed, augment_sound(samples, RATE, rng(seed), 1.0))


def test_masks_are_stripes_of_the_lowest_value() -> None:
    spectrogram = rng(1).random((1, 1, 16, 64), np.float32) + 1
    masked = mask_spectrogram(spectrogram, rng(3), 1.0)[0, 0]
    hidden = masked != spectrogram[0, 0]
    assert hidden.any()
    assert (masked[hidden] == spectrogram.min()).all()
    lowest = masked == spectrogram.min()
    stripes_of = lowest.all(1)[:, None] | lowest.all(0)[None, :]
    assert not (hidden & ~stripes_of).any()
    assert spectrogram.min() > 0  # the input is not changed in place
