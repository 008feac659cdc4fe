"""Hands are cut out of the wall: all of them, and nothing else."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from model.training.handsigns.cutout import cut_out
from model.training.task import DataError
from tests.model.training.handsigns.data_folder import SKIN, draw_mask, draw_photograph


@pytest.mark.parametrize("camera", [0, 1])
@pytest.mark.parametrize("digit", range(10))
def test_a_hand_is_cut_out_along_its_edge(digit: int, camera: int) -> None:
    truth = draw_mask(digit)
    hand = cut_out(draw_photograph(digit, camera)).cover > 127
    assert (hand & truth).sum() / (hand | truth).sum() > 0.85
    inner = cv2.erode(truth.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    outer = cv2.dilate(truth.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    assert hand[inner].mean() > 0.99
    assert not (hand & ~outer).any()


def test_the_wall_that_a_ring_of_fingers_encloses_is_not_hand() -> None:
    cutout = cut_out(draw_photograph(0))
    assert cutout.cover[50, 50] == 0
    assert cutout.cover[50, 32] > 200


def test_the_colour_continues_beyond_the_edge_without_wall() -> None:
    cutout = cut_out(draw_photograph(5))
    assert np.abs(cutout.colour.astype(int) - SKIN).max() < 70
    assert np.abs(cutout.colour.reshape(-1, 3).mean(0) - SKIN).max() < 30


def test_the_box_encloses_the_hand() -> None:
    cutout = cut_out(draw_photograph(6))
    left, top, right, bottom = cutout.box
    hand = cutout.cover > 127
    assert hand[top:bottom, left:right].sum() == hand.sum()
    assert hand[top].any()
    assert hand[bottom - 1].any()
    assert hand[:, left].any()
    assert hand[:, right - 1].any()


def test_a_larger_photograph_is_cut_out_as_well() -> None:
    large = cv2.resize(draw_photograph(3), (200, 200), interpolation=cv2.INTER_CUBIC)
    truth = cv2.resize(draw_mask(3).astype(np.uint8), (200, 200)) > 0
    hand = cut_out(np.asarray(large, np.uint8)).cover > 127
    assert (hand & truth).sum() / (hand | truth).sum() > 0.85


@pytest.mark.parametrize("level", [40, 128, 230])
def test_a_picture_without_a_hand_is_refused(level: int) -> None:
    noise = np.random.default_rng(0).normal(level, 2, (100, 100, 1))
    wall = np.repeat(np.clip(noise, 0, 255), 3, 2).astype(np.uint8)
    with pytest.raises(DataError, match="no hand before a light wall: 0%"):
        cut_out(wall)
