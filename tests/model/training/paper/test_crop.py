"""Crops lie inside the picture, cover the published range, and are resized as published."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model.preprocess.frames import stretch_picture
from model.preprocess.profiles import PROFILES
from model.preprocess.specs import FrameSpec
from model.training.paper.crop import Crop, draw_crop

SIDES = st.integers(1, 500)


@given(height=SIDES, width=SIDES, seed=st.integers(0, 1000), strength=st.floats(0, 1))
def test_a_crop_lies_inside(height: int, width: int, seed: int, strength: float) -> None:
    crop = draw_crop(height, width, np.random.default_rng(seed), strength=strength)
    assert crop.height >= 1
    assert crop.width >= 1
    assert 0 <= crop.top <= height - crop.height
    assert 0 <= crop.left <= width - crop.width


def test_crops_cover_the_published_range() -> None:
    rng = np.random.default_rng(0)
    crops = [draw_crop(360, 480, rng) for _ in range(3000)]
    areas = np.asarray([crop.height * crop.width for crop in crops]) / (360 * 480)
    aspects = np.asarray([crop.width / crop.height for crop in crops])
    assert 0.075 < areas.min() < 0.11
    assert areas.max() > 0.95
    assert 0.74 < aspects.min() < 0.8
    assert 1.25 < aspects.max() < 1.36
    assert 0.45 < np.mean([crop.mirrored for crop in crops]) < 0.55


def test_without_strength_it_is_the_whole_picture() -> None:
    crop = draw_crop(360, 480, np.random.default_rng(0), strength=0, mirror=False)
    assert crop == Crop(0, 0, 360, 480)


def test_a_crop_is_resized_to_the_spec_and_mirrored() -> None:
    spec = PROFILES["crema_d"]["visual"]
    assert isinstance(spec, FrameSpec)
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[:, 100:] = 255
    whole = stretch_picture(Crop(0, 0, 100, 200).apply(picture), spec)
    assert whole.shape == (1, 3, 128, 128)
    black = -np.asarray(spec.mean) / np.asarray(spec.std)
    white = (1 - np.asarray(spec.mean)) / np.asarray(spec.std)
    np.testing.assert_allclose(whole[0, :, 64, 10], black, atol=1e-5)
    np.testing.assert_allclose(whole[0, :, 64, 117], white, atol=1e-5)
    mirrored = stretch_picture(Crop(0, 0, 100, 200, mirrored=True).apply(picture), spec)
    np.testing.assert_allclose(mirrored[0, :, 64, 10], white, atol=1e-5)
    right = stretch_picture(Crop(10, 120, 50, 50).apply(picture), spec)
    np.testing.assert_allclose(right[0, :, 64, 64], white, atol=1e-5)
