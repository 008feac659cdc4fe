"""The force on the pen, simulated from pictures, and examples and clips with it."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from model.training.avdigits.dataset import Scenes
from model.training.avdigits.folder import Digits
from model.training.avdigits_tactile.clips import labelled_clips
from model.training.avdigits_tactile.dataset import WrittenScenes
from model.training.avdigits_tactile.pen import FORCE_N, RATE_HZ, pen_force, thin, trace
from model.training.avdigits_tactile.task import AVDigitsTactile
from model.training.task import BatchPlan

Bytes = NDArray[np.uint8]
STREAMS = ("audio", "visual", "tactile")


def drawn(*lines: tuple[tuple[int, int], tuple[int, int]], width: int = 3) -> Bytes:
    """Return a picture [28, 28] of straight lines, each from and to a point (x, y)."""
    picture = np.zeros((28, 28), np.uint8)
    for begin, end in lines:
        cv2.line(picture, begin, end, 255, width)
    return picture


UPRIGHT = ((14, 4), (14, 24))
CROSS = (((4, 14), (24, 14)), UPRIGHT)
PARALLEL = (((7, 5), (7, 23)), ((20, 5), (20, 23)))


def lifts(picture: Bytes) -> int:
    """Return how often the force falls to 0 before the end."""
    on = pen_force(picture).values > 0
    return int((on[:-1] & ~on[1:]).sum()) - int(not on[-1])


def test_a_line_is_thinned_to_one_pixel_in_its_middle() -> None:
    thick = np.zeros((30, 40), bool)
    thick[10:17, 5:35] = True
    lines = thin(thick)
    assert (lines & ~thick).sum() == 0
    assert lines[:, 10:30].sum(0).tolist() == [1] * 20
    assert np.abs(np.argwhere(lines)[:, 0] - 13).max() <= 2


def test_a_cross_is_two_strokes_that_go_straight_on() -> None:
    large = np.pad(cv2.resize(drawn(*CROSS), None, fx=4, fy=4), 2) > 100
    strokes = trace(thin(large))
    assert len(strokes) == 2
    for stroke in strokes:
        spans = np.ptp(np.array(stroke), axis=0)
        assert spans.max() > 60
        assert spans.min() < 12


@pytest.mark.parametrize(("lines", "expected"), [((UPRIGHT,), 0), (CROSS, 1), (PARALLEL, 1)])
def test_the_pen_is_lifted_between_strokes(
    lines: tuple[tuple[tuple[int, int], tuple[int, int]], ...], expected: int
) -> None:
    assert lifts(drawn(*lines)) == expected


def test_a_wider_line_is_pressed_harder_and_a_longer_one_takes_longer() -> None:
    thin_line, thick_line = (pen_force(drawn(UPRIGHT, width=w)) for w in (2, 5))
    assert np.median(thick_line.values) > 1.5 * np.median(thin_line.values)
    assert 0 < np.median(thin_line.values) < 4 * FORCE_N
    short = pen_force(drawn(((14, 4), (14, 12))))
    assert short.duration_s < 0.6 * thin_line.duration_s
    assert np.diff(short.time_s) == pytest.approx(1 / RATE_HZ)


def test_a_dot_and_a_faint_picture_have_a_force() -> None:
    dot = np.zeros((28, 28), np.uint8)
    dot[10, 10] = 60
    for picture in (dot, drawn(UPRIGHT) // 4):
        force = pen_force(picture)
        assert len(force.values) >= 2
        assert np.isfinite(force.values).all()


@pytest.fixture(scope="module")
def digits() -> Digits:
    rng = np.random.default_rng(0)
    pictures = tuple(
        np.stack([drawn(((5 + k, 4), (20, 24)), *([CROSS[0]] * (k % 2))) for _ in range(2)])
        for k in range(10)
    )
    word = rng.standard_normal(4000).astype(np.float32) * 0.1
    return Digits(pictures, tuple((word,) for _ in range(10)))


def test_the_force_is_of_the_digit_that_the_picture_shows(digits: Digits) -> None:
    for augmented in (False, True):
        examples = WrittenScenes(Scenes(digits, 3, augmented=augmented))
        both, label = examples.example(5, BatchPlan(STREAMS, 2))
        alone, same = examples.example(5, BatchPlan(("tactile",), 1))
        assert label == same
        np.testing.assert_array_equal(both["tactile"], alone["tactile"])
        assert both["tactile"].shape == (1, 1, 64, 192)
        picture = examples.scenes.picture(5)
        assert (picture == digits.pictures[label]).all((1, 2)).any()


def test_a_clip_has_its_force_as_a_file(digits: Digits) -> None:
    clip = next(labelled_clips(digits, 1, 7))
    decoded = clip.decode(2)
    assert decoded.sound is not None
    assert decoded.pictures is not None
    assert decoded.series["tactile"].values.max() > 0


def test_the_card_says_that_the_force_is_simulated() -> None:
    task = AVDigitsTactile()
    assert task.card_notes()["tactile"].startswith("simulated: MNIST has pictures only.")
    assert tuple(task.specs) == STREAMS
    assert len({spec.size[0] * spec.size[1] for spec in task.specs.values()}) == 1
