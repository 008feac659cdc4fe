"""Backgrounds are of families that share no kind, repeatable, and busy."""

from __future__ import annotations

import numpy as np
import pytest

from model.training import backgrounds
from model.training.backgrounds import DEVELOPMENT, KINDS, SIZE, TEST, TRAINING


def test_training_development_and_test_share_no_kind() -> None:
    families = [*TRAINING, *DEVELOPMENT, *TEST]
    assert len(families) == len(set(families))
    assert set(families) == set(KINDS)


@pytest.mark.parametrize("kind", list(KINDS))
def test_each_kind_is_drawn_by_its_seed_alone(kind: str) -> None:
    first, second = (KINDS[kind](np.random.default_rng(seed)) for seed in (1, 2))
    assert first.shape == (*SIZE, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, KINDS[kind](np.random.default_rng(1)))
    assert not np.array_equal(first, second)
    spread = [KINDS[kind](np.random.default_rng(seed)).std() for seed in range(12)]
    assert np.mean(spread) > 12


def test_a_pool_has_as_many_of_each_kind() -> None:
    pool = backgrounds.pool(TEST, 6, 3)
    assert len(pool) == 6
    assert np.array_equal(pool[4], KINDS[TEST[1]](np.random.default_rng([3, 4])))


@pytest.mark.parametrize("size", [(90, 120), (120, 90), (96, 96), (360, 640), (2, 300)])
def test_a_part_of_a_background_has_the_size_of_the_frame(size: tuple[int, int]) -> None:
    ramp = np.zeros((*SIZE, 3), np.uint8)
    ramp[:] = np.arange(SIZE[1], dtype=np.uint8)[None, :, None]
    part = backgrounds.cut_background((ramp,), np.random.default_rng(0), *size)
    assert part.shape == (*size, 3)
    assert set(np.unique(part)) <= set(range(SIZE[1]))
