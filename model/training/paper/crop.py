"""The published augmentation of pictures: a random crop, resized, and a mirror image."""

from __future__ import annotations

import math
from dataclasses import dataclass

from numpy.random import Generator

from model.arrays import UInt8Array

#: Least share of the picture's area that a crop keeps, and its width over its height.
MIN_AREA = 0.08
ASPECTS = (3 / 4, 4 / 3)
#: Draws until a crop fits into the picture; then the largest central one is taken.
_TRIES = 10


@dataclass(frozen=True)
class Crop:
    """A part of a picture in pixels, mirrored or not."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool = False

    def apply(self, picture: UInt8Array) -> UInt8Array:
        """Return the part [height, width, 3] of a picture [h, w, 3]."""
        rows = slice(self.top, self.top + self.height)
        part = picture[rows, self.left : self.left + self.width]
        return part[:, ::-1] if self.mirrored else part


def draw_crop(
    height: int, width: int, rng: Generator, *, strength: float = 1.0, mirror: bool = True
) -> Crop:
    """Draw a crop of a picture of `height` x `width` pixels, as published.

    Its area is 1 - 0.92 `strength` of the picture's, or more; its aspect is 3/4 to 4/3.
    """
    mirrored = mirror and bool(rng.random() < 0.5)
    for _ in range(_TRIES):
        area = height * width * rng.uniform(1 - strength * (1 - MIN_AREA), 1)
        aspect = math.exp(rng.uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1])))
        across, down = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < across <= width and 0 < down <= height:
            top = int(rng.integers(0, height - down + 1))
            left = int(rng.integers(0, width - across + 1))
            return Crop(top, left, down, across, mirrored)
    across = min(width, round(height * ASPECTS[1]))
    down = min(height, round(width / ASPECTS[0]))
    return Crop((height - down) // 2, (width - across) // 2, down, across, mirrored)
