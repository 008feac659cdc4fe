"""Averages over areas are OpenCV's, to the bit."""

from __future__ import annotations

import platform

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.preprocess import area
from model.preprocess.area import _is_exact, resize_area

#: Where OpenCV's build multiplies and adds in one operation, its halfway averages may differ.
ROUNDS_EACH_OPERATION = platform.machine() in ("x86_64", "AMD64")


def assert_as_opencv(picture: np.ndarray, size: tuple[int, int]) -> None:
    shrunk, expected = resize_area(picture, *size), _opencv(picture, *size)
    assert shrunk.shape == (*size, 3)
    if ROUNDS_EACH_OPERATION:
        assert np.array_equal(shrunk, expected)
    else:
        assert np.abs(shrunk.astype(int) - expected).max() <= 1


def _opencv(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA))


@given(
    rows=st.tuples(st.integers(1, 21), st.integers(1, 21), st.integers(1, 9)),
    columns=st.tuples(st.integers(1, 21), st.integers(1, 21), st.integers(1, 9)),
    levels=st.sampled_from([2, 3, 256]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=150)
def test_shrinking_gives_what_opencv_gives(
    rows: tuple[int, int, int], columns: tuple[int, int, int], levels: int, seed: int
) -> None:
    (height, resized_height, k), (width, resized_width, m) = rows, columns
    height, resized_height = k * max(height, resized_height), k * min(height, resized_height)
    width, resized_width = m * max(width, resized_width), m * min(width, resized_width)
    random = np.random.default_rng(seed).integers(0, levels, (height, width, 3))
    picture = (random * (255 // (levels - 1))).astype(np.uint8)
    assert_as_opencv(picture, (resized_height, resized_width))


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((240, 320), (96, 128)),
        ((360, 480), (96, 128)),
        ((540, 960), (72, 128)),
        ((320, 240), (96, 72)),
        ((640, 480), (96, 72)),
    ],
)
def test_usual_videos_are_shrunk_by_products(shape: tuple[int, int], size: tuple[int, int]) -> None:
    scales = [(n // np.gcd(n, m), m // np.gcd(n, m)) for n, m in zip(shape, size, strict=True)]
    assert _is_exact(*scales)
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    assert_as_opencv(picture, size)


@given(
    rows=st.sampled_from([(10, 3), (20, 3), (4, 3), (3, 2), (8, 5), (16, 9), (20, 19)]),
    columns=st.sampled_from([(10, 3), (20, 7), (2, 1), (5, 2), (6, 5), (14, 9), (20, 19)]),
    blocks=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_halfway_averages_are_rounded_as_opencv_rounds_them(
    rows: tuple[int, int], columns: tuple[int, int], blocks: tuple[int, int], seed: int
) -> None:
    """Each area has an average halfway between two integers, up to a few steps."""
    (p, q), (r, s) = rows, columns
    assert _is_exact(rows, columns)
    rng = np.random.default_rng(seed)
    height, width = p * blocks[0], r * blocks[1]
    picture = np.full((height, width, 3), rng.integers(1, 254), np.uint8)
    picture[::2] += 1
    picture[:, ::2] ^= rng.integers(0, 2, (height, -(-width // 2), 3)).astype(np.uint8)
    for at_most in (0.02, 1.0):  # by OpenCV where there are many, and all of them one by one
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(area, "_MAX_HALFWAY", at_most)
            assert_as_opencv(picture, (q * blocks[0], s * blocks[1]))


def test_enlarging_interpolates() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    expected = cv2.resize(picture, (16, 12), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(resize_area(picture, 12, 16), expected)
