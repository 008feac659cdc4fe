"""The hand of a photograph, cut out of the light wall behind it.

The wall is the smooth part of the picture: a quadratic surface for each channel of CIE Lab, fitted
to the pixels that agree with it (least squares, reweighted), mostly above and beside the hand. What
differs from it in colour, or is much darker than it, and is connected, is the hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from model.arrays import Float32Array, UInt8Array
from model.training.task import DataError

#: Weight of a difference in lightness in the fit of the wall: shadows differ in lightness only.
_LIGHTNESS = 0.35
#: Reweighted fits of the wall, and the distance at which a pixel has half the weight.
_FITS, _SCALE = 8, 4.0
#: Differences from the wall's colour, in units of Lab, beyond which a pixel is hand; raised to the
#: wall's own roughness where that is greater.
_COLOURED = 7.0
#: A pixel that is darker than the wall by this, in units of Lab, is nail, sleeve or bracelet, if a
#: square of `_DARK_SIDE` pixels around it is as dark: the shadow at a hand's edge is thinner.
_DARK, _DARK_SIDE = 30.0, 5
#: A pixel at the edge that has little colour, and is not darker than the wall by this, is wall.
_RIM = 6.0
#: Shares of the picture's area that a hand covers.
_AREA = (0.04, 0.75)
#: Wall that a hand encloses is a hole in it if its area is at least this share of the picture's.
_HOLE = 0.0015


@dataclass(frozen=True)
class Cutout:
    """A hand without its background.

    `colour` uint8 RGB [h, w, 3], continued beyond the hand's edge, so that an enlarged hand has no
    fringe of wall. `cover` uint8 [h, w], its opacity, 0 to 255.
    """

    colour: UInt8Array
    cover: UInt8Array

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the hand in pixels, right and bottom beyond it."""
        rows = np.flatnonzero((self.cover > 127).any(1))
        columns = np.flatnonzero((self.cover > 127).any(0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def cut_out(photograph: UInt8Array) -> Cutout:
    """Cut the hand out of a photograph, uint8 RGB [h, w, 3], taken before a light wall.

    Raises DataError where no part of the picture can be the hand.
    """
    coloured, darker = wall_differences(photograph)
    limit = max(_COLOURED, 4 * float(np.quantile(coloured, 0.25)))
    square = np.ones((_DARK_SIDE, _DARK_SIDE), np.uint8)
    dark: Any = cv2.morphologyEx((darker > _DARK).astype(np.uint8), cv2.MORPH_OPEN, square)
    # JPEG keeps colour at half the resolution: the wall beside a hand has some of its colour.
    rim = (coloured < 2.2 * limit) & (darker < _RIM)
    inner: Any = cv2.erode((coloured > limit).astype(np.uint8), np.ones((5, 5), np.uint8))
    hand = _hand(((coloured > limit) & (~rim | (inner > 0))) | (dark > 0))
    share = float(hand.mean())
    if not _AREA[0] <= share <= _AREA[1]:
        raise DataError(
            f"no hand before a light wall: {share:.0%} of the picture differs from the wall; "
            f"{_AREA[0]:.0%} to {_AREA[1]:.0%} is expected"
        )
    cover: Any = hand.astype(np.float32)
    cover = cv2.GaussianBlur(cover, (0, 0), 0.8)
    cover = np.clip(
        (cover - 0.35) / 0.5, 0, 1
    )  # half a pixel inside the edge, which has wall in it
    return Cutout(_spread(photograph, cover > 0.95), np.rint(255 * cover).astype(np.uint8))


def wall_differences(photograph: UInt8Array) -> tuple[Float32Array, Float32Array]:
    """Return by how much each pixel's colour differs from the wall's, and by how much it is darker,
    both [h, w] in units of CIE Lab."""
    lab = _lab(photograph)
    height, width = lab.shape[:2]
    surfaces = _surfaces(height, width)  # [h * w, terms]
    values: Any = lab.reshape(-1, 3)
    places = _wall_places(height, width)
    weights: Any = places * (values[:, 0] > np.quantile(values[:, 0], 0.3))
    difference = np.zeros_like(values)
    for _ in range(_FITS):
        weighted = surfaces * weights[:, None]
        fit, *_ = np.linalg.lstsq(weighted.T @ surfaces, weighted.T @ values, rcond=None)
        difference = values - surfaces @ fit
        square = (_LIGHTNESS * difference[:, 0]) ** 2 + (difference[:, 1:] ** 2).sum(1)
        weights = places / (1 + (square / _SCALE**2) ** 2)
    coloured = np.sqrt((difference[:, 1:] ** 2).sum(1))
    shape = (height, width)
    darker = -difference[:, 0]
    return (
        np.asarray(coloured.reshape(shape), np.float32),
        np.asarray(darker.reshape(shape), np.float32),
    )


def _lab(photograph: UInt8Array) -> Float32Array:
    smooth: Any = cv2.bilateralFilter(photograph, 5, 18, 2)  # JPEG's blocks and the camera's noise
    values: Any = smooth.astype(np.float32) / 255
    return np.asarray(cv2.cvtColor(values, cv2.COLOR_RGB2Lab), np.float32)


def _surfaces(height: int, width: int) -> Float32Array:
    """Return the terms 1, x, y, x², x y and y² of each pixel, [h * w, terms]."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    terms = [x**i * y**j for i in range(3) for j in range(3) if i + j <= 2]
    return np.stack(terms, -1).reshape(height * width, -1).astype(np.float32)


def _wall_places(height: int, width: int) -> Float32Array:
    """Return how likely each pixel shows the wall, [h * w]: the border above and beside the hand
    does, the lower middle, where the arm enters, does not."""
    y, x = np.mgrid[0 : 1 : height * 1j, -1 : 1 : width * 1j]
    places = np.full((height, width), 0.1, np.float32)
    places[(y < 0.1) | (np.abs(x) > 0.8)] = 1
    places[(y > 0.5) & (np.abs(x) < 0.6)] = 0.002
    return places.reshape(-1)


def _hand(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the part of a mask [h, w] that is the hand: the largest, without specks and holes."""
    opened: Any = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    count, parts, stats, centres = cv2.connectedComponentsWithStats(opened, connectivity=4)
    if count < 2:
        return np.zeros_like(mask)
    height, width = mask.shape
    offset = np.abs(centres[1:] / (width, height) - (0.5, 0.6)).max(1)
    scores = stats[1:, cv2.CC_STAT_AREA] * (offset < 0.35)
    hand = parts == 1 + int(np.argmax(scores))
    count, parts, stats, _ = cv2.connectedComponentsWithStats(
        (~hand).astype(np.uint8), connectivity=4
    )
    for part in range(1, count):
        left, top, wide, tall, area = stats[part]
        inside = left > 0 and top > 0 and left + wide < width and top + tall < height
        if inside and area < _HOLE * mask.size:
            hand |= parts == part
    return np.asarray(hand, bool)


def _spread(photograph: UInt8Array, inside: NDArray[np.bool_]) -> UInt8Array:
    """Return the photograph with the hand's colours spread over everything that is not hand."""
    _, nearest = cv2.distanceTransformWithLabels(
        (~inside).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colours = np.zeros((int(nearest.max()) + 1, 3), np.uint8)
    colours[nearest[inside]] = photograph[inside]
    return np.asarray(colours[nearest], np.uint8)
