"""Averages over areas are OpenCV's, to the bit."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.preprocess.area import _is_exact, resize_area


def _opencv(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA))


@given(
    rows=st.tuples(st.integers(1, 16), st.integers(1, 16), st.integers(1, 9)),
    columns=st.tuples(st.integers(1, 16), st.integers(1, 16), st.integers(1, 9)),
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
    shrunk = resize_area(picture, resized_height, resized_width)
    assert shrunk.shape == (resized_height, resized_width, 3)
    assert np.array_equal(shrunk, _opencv(picture, resized_height, resized_width))


@pytest.mark.parametrize(
    ("shape", "size"), [((240, 320), (96, 128)), ((360, 480), (96, 128)), ((540, 960), (72, 128))]
)
def test_usual_videos_are_shrunk_by_products(shape: tuple[int, int], size: tuple[int, int]) -> None:
    scales = [(n // np.gcd(n, m), m // np.gcd(n, m)) for n, m in zip(shape, size, strict=True)]
    assert _is_exact(*scales)
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    assert np.array_equal(resize_area(picture, *size), _opencv(picture, *size))


def test_enlarging_interpolates() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    expected = cv2.resize(picture, (16, 12), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(resize_area(picture, 12, 16), expected)
