"""Sizes of frames are even, of the shapes and the shorter side that are asked for."""

from __future__ import annotations

import numpy as np

from model.training.frame_size import SHAPES, draw_size


def test_sizes_are_even_and_of_all_shapes() -> None:
    rng = np.random.default_rng(0)
    sizes = [draw_size(rng, (96, 161)) for _ in range(300)]
    for height, width in sizes:
        assert height % 2 == width % 2 == 0
        assert 96 <= min(height, width) <= 160
    for shape, probability in SHAPES:
        close = [abs(width / height - shape) < 0.04 for height, width in sizes]
        assert abs(np.mean(close) - probability) < 0.1
