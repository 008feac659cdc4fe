"""A window follows its object, keeps within what was drawn, and varies light in training."""

from __future__ import annotations

import numpy as np
import pytest

from model.training.drones.folder import View
from model.training.drones.window import (
    BACKGROUND_SIDES,
    CLIP_SIDES,
    SIDES,
    Window,
    draw_clip_window,
    draw_light,
    draw_window,
)
from tests.model.training.drones.data_folder import draw_sky, draw_view

DRONE = View(draw_view("drone", 0, 40), "drone", "V_DRONE_000.mp4", "d0", (30, 22, 20, 20))
SKY = View(draw_sky(0), "background", "V_DRONE_000.mp4", "d0", None)


def dark(picture: np.ndarray) -> np.ndarray:
    """Row and column of the mean dark pixel, over the sides."""
    pixels = np.argwhere(picture.max(2) < 100)
    return np.asarray(pixels.mean(0) / picture.shape[0])


@pytest.mark.parametrize("side", [1.5, 3.0, 6.0])
def test_the_object_is_where_the_window_says(side: float) -> None:
    picture = Window(side, (0.0, 0.0), np.eye(2)).cut(DRONE, 96)
    np.testing.assert_allclose(dark(picture), 0.5, atol=0.03)
    moved = Window(side, (0.1, -0.2), np.eye(2)).cut(DRONE, 96)
    np.testing.assert_allclose(dark(moved), [0.7, 0.4], atol=0.03)
    share = (picture.max(2) < 100).mean()
    drawn = (DRONE.picture.max(2) < 100).sum() / 20**2  # of the box, whose sides are 20 pixels
    assert share * side**2 == pytest.approx(drawn, rel=0.35)


def test_beyond_the_view_its_border_is_repeated() -> None:
    picture = Window(8.0, (0.0, 0.0), np.eye(2)).cut(DRONE, 96)
    np.testing.assert_array_equal(picture[0, 0], DRONE.picture[0, 0])
    np.testing.assert_array_equal(picture[-1, -1], DRONE.picture[-1, -1])


def test_windows_stay_in_their_range() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        window = draw_window(rng, True, 1.0)
        assert SIDES[0] <= window.side <= SIDES[1]
        assert np.abs(window.offset).max() <= 0.22
        assert BACKGROUND_SIDES[0] <= draw_window(rng, False, 1.0).side <= BACKGROUND_SIDES[1]
        easy = draw_window(rng, True, 0.0)
        np.testing.assert_allclose(np.abs(easy.linear), np.eye(2), atol=1e-9)
        assert CLIP_SIDES[0] <= draw_clip_window(rng, True).side <= CLIP_SIDES[1]


def test_a_window_of_the_background_lies_inside_it() -> None:
    picture = SKY.picture.copy()
    picture[0] = picture[-1] = picture[:, 0] = picture[:, -1] = 0
    framed = View(picture, SKY.kind, SKY.clip, SKY.site, None)
    for seed in range(10):
        cut = draw_clip_window(np.random.default_rng(seed), False).cut(framed, 64)
        assert (cut.max(2) < 40).mean() < 0.07


def test_light_varies_and_leaves_the_place() -> None:
    pictures = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        pictures.append(draw_light(rng, 1.0).apply(DRONE.picture, rng))
    spread = [np.ptp(picture.mean((0, 1))) for picture in pictures]
    assert min(spread) < 3  # grey
    assert max(spread) > 80  # blue
    brighter = [p[20:44, 30:50].mean() > p[:10].mean() + 5 for p in pictures]
    assert any(brighter)  # a negative
    assert np.mean(brighter) < 0.3
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(draw_light(rng, 0.0).apply(DRONE.picture, rng), DRONE.picture)
