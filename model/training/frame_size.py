"""Sizes of frames, as cameras and telephones make them."""

from __future__ import annotations

from numpy.random import Generator

#: Aspect ratios, width over height, and their probabilities.
SHAPES = ((4 / 3, 0.4), (16 / 9, 0.25), (1.0, 0.1), (3 / 4, 0.12), (9 / 16, 0.13))


def draw_size(rng: Generator, short_side: tuple[int, int]) -> tuple[int, int]:
    """Draw the height and width of a frame, which are even."""
    shapes, probabilities = zip(*SHAPES, strict=True)
    shape = shapes[int(rng.choice(len(shapes), p=probabilities))]
    short = int(rng.integers(short_side[0], short_side[1] + 1)) // 2 * 2
    long = round(short * max(shape, 1 / shape)) // 2 * 2
    return (short, long) if shape >= 1 else (long, short)
