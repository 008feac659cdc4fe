"""Scenes hold the hand where they say, before their own wall or another ground."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.training.handsigns.cutout import cut_out
from model.training.handsigns.folder import Hand
from model.training.handsigns.scene import Scene, draw_scene, photograph_scene
from tests.model.training.handsigns.data_folder import draw_photograph

pytestmark = pytest.mark.slow

PHOTOGRAPH = draw_photograph(6)
HAND = Hand(PHOTOGRAPH, cut_out(PHOTOGRAPH), "s000")
#: A ground of a colour that neither hand nor wall has.
BLACK = (np.zeros((160, 214, 3), np.uint8),)


def scene(seed: int, *, plain: bool = False, difficulty: float = 1.0, covered: float = 0) -> Scene:
    rng = np.random.default_rng(seed)
    return draw_scene(HAND, BLACK, rng, plain=plain, covered=covered, difficulty=difficulty)


@given(seed=st.integers(0, 10_000), difficulty=st.floats(0, 1))
@settings(max_examples=60)
def test_the_hand_is_inside_its_box_and_the_box_inside_the_frame(
    seed: int, difficulty: float
) -> None:
    drawn = replace(scene(seed, difficulty=difficulty), softness=0.0)
    drawn = replace(drawn, hand=replace(drawn.hand, continues=False))
    height, width = drawn.ground.shape[:2]
    left, top, right, bottom = drawn.box
    assert -1 <= left < right <= width + 1
    assert -1 <= top < bottom <= height + 1
    hand = drawn.frame()[:, :, 0] > 60
    ys, xs = np.nonzero(hand)
    assert ys.min() >= top - 2
    assert ys.max() <= bottom + 2
    assert xs.min() >= left - 2
    assert xs.max() <= right + 2
    assert hand.sum() > 0.15 * (right - left) * (bottom - top)


def test_a_busy_scene_has_nothing_of_the_wall_and_a_plain_one_nothing_of_the_ground() -> None:
    for seed in range(20):
        busy, plain = (scene(seed, plain=x, difficulty=0.0).frame() for x in (False, True))
        assert (busy == 0).all(2).mean() > 0.1
        assert not (busy.min(2) > 190).any()
        assert not (plain == 0).all(2).any()
        assert (plain.min(2) > 120).mean() > 0.1


def test_hands_are_shown_on_both_sides() -> None:
    sides = [np.linalg.det(scene(seed).hand.matrix[:, :2]) > 0 for seed in range(40)]
    assert 8 < sum(sides) < 32


def test_without_difficulty_hands_are_upright_in_the_middle_and_lit_as_in_the_photograph() -> None:
    for seed in range(20):
        easy = scene(seed, difficulty=0.0)
        assert easy.gains.tolist() == [1, 1, 1]
        assert easy.gamma == 1
        assert easy.covers == ()
        linear = easy.hand.matrix[:, :2]
        assert np.allclose(linear, np.diag(np.diag(linear)))
        height, width = easy.ground.shape[:2]
        assert easy.box[0] + easy.box[2] == pytest.approx(width)
        assert easy.box[3] == height


def test_a_thing_hides_a_small_part_of_the_hand() -> None:
    for seed in range(30):
        covered = scene(seed, covered=1.0)
        ((left, top, right, bottom), shade) = covered.covers[0]
        box = covered.box
        area = (box[2] - box[0]) * (box[3] - box[1])
        assert (right - left) * (bottom - top) <= 0.12 * area + 2 * (box[2] - box[0]) + 2
        part = covered.frame()[top:bottom, left:right]
        assert np.abs(part.astype(float) - np.trunc(shade)).max(initial=0) == 0


def test_a_shift_moves_the_hand_and_not_the_ground() -> None:
    drawn = replace(scene(3), covers=())
    still, moved = drawn.frame(), drawn.frame(shift=(7.0, 0.0))
    assert not np.array_equal(still, moved)
    changed = (still != moved).any(2)
    assert not changed[: max(0, int(drawn.box[1]) - 3)].any()


def test_a_photograph_is_a_scene_as_it_is() -> None:
    drawn = photograph_scene(HAND)
    assert np.array_equal(drawn.frame(), PHOTOGRAPH)
    assert drawn.box == HAND.cutout.box
