"""Scenes to train on: a hand somewhere in a colour frame, before its own wall or another ground.

A hand may be mirrored for all ten signs: they are one-handed, palm to the camera, and differ by
which fingers are stretched and which finger the thumb touches, so that a left hand shows the same
digit in mirror image. No sign is the mirror image of another digit's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from model.arrays import Float32Array, UInt8Array
from model.training.backgrounds import cut_background
from model.training.frame_size import draw_size
from model.training.handsigns.folder import Hand

#: Height of a hand over the shorter side of the frame, in training and in clips.
HEIGHTS = (0.4, 0.98)
CLIP_HEIGHTS = (0.5, 0.95)
#: Greatest rotation in degrees, change of aspect (factor), and slant, at full difficulty.
_TILT, _ASPECT, _SLANT = 25.0, 1.15, 0.15
#: Share of the hands cut out that are cut a pixel further inside, at full difficulty.
_TRIMMED = 0.5


@dataclass(frozen=True)
class Layer:
    """A picture and where it lies in the frame.

    `colour` uint8 RGB [h, w, 3]; `cover` uint8 [h, w], its opacity; `matrix` float64 [2, 3] maps
    its pixels to those of the frame. `continues`: its border is replicated
    beyond it, as for the arm of a hand, or the wall behind it.
    """

    colour: UInt8Array
    cover: UInt8Array
    matrix: NDArray[np.float64]
    continues: bool

    def moved(self, across: float, down: float) -> Layer:
        """Return the layer moved by some pixels of the frame."""
        return replace(self, matrix=self.matrix + np.array([[0, 0, across], [0, 0, down]]))


@dataclass(frozen=True)
class Scene:
    """A hand before a ground.

    - `ground`: uint8 RGB [h, w, 3].
    - `hand`: the hand cut out, or the whole photograph with its wall.
    - `gains`: factor on each channel of the hand [3], and `gamma`, its exponent.
    - `softness`: standard deviation in pixels of a blur of the hand's edge.
    - `covers`: boxes (left, top, right, bottom) of things before the hand, and their colours.
    - `box`: (left, top, right, bottom) of the hand in pixels.
    """

    ground: UInt8Array
    hand: Layer
    gains: Float32Array
    gamma: float
    softness: float
    covers: tuple[tuple[tuple[int, int, int, int], tuple[float, float, float]], ...]
    box: tuple[float, float, float, float]

    def frame(self, shift: tuple[float, float] = (0.0, 0.0)) -> UInt8Array:
        """Return the frame, uint8 RGB [h, w, 3]; the hand moved by `shift` (x, y) pixels."""
        height, width = self.ground.shape[:2]
        layer = self.hand.moved(*shift)
        border = cv2.BORDER_REPLICATE if layer.continues else cv2.BORDER_CONSTANT
        shrinks = np.hypot(*layer.matrix[:, 0]) < 0.7
        source = cv2.GaussianBlur(layer.colour, (0, 0), 0.7) if shrinks else layer.colour
        colour: Any = cv2.warpAffine(
            source, layer.matrix, (width, height), borderMode=cv2.BORDER_REPLICATE
        )
        cover: Any = cv2.warpAffine(layer.cover, layer.matrix, (width, height), borderMode=border)
        if self.softness > 0:
            cover = cv2.GaussianBlur(cover, (0, 0), self.softness)
        lit = np.arange(256, dtype=np.float32) / 255
        table = np.clip(255 * lit[:, None] ** self.gamma * self.gains, 0, 255).astype(np.uint8)
        colour = cv2.LUT(colour, table[None])
        opacity = cover.astype(np.float32)[:, :, None] * np.float32(1 / 255)
        frame: Any = self.ground + (colour - self.ground.astype(np.float32)) * opacity
        for (left, top, right, bottom), shade in self.covers:
            frame[top:bottom, left:right] = shade
        return np.asarray(frame, np.uint8)


def draw_scene(
    hand: Hand,
    backgrounds: tuple[UInt8Array, ...],
    rng: Generator,
    *,
    plain: bool,
    covered: float = 0.0,
    short_side: tuple[int, int] = (80, 144),
    size: tuple[int, int] | None = None,
    heights: tuple[float, float] = HEIGHTS,
    difficulty: float = 1.0,
) -> Scene:
    """Draw a random scene around one hand.

    `plain`: the photograph with its own wall, continued to the frame's edges; else the hand
    cut out, before a random part of one of `backgrounds`. `covered`: probability that a thing
    hides a part of the hand, which may be the finger that matters. `short_side` bounds the
    frame's shorter side in pixels, unless `size` is its height and width; `heights` the hand's
    height over it. `difficulty` 0 gives large, upright hands in the middle, lit as the photograph
    is; 1 the whole range.
    """
    height, width = size or draw_size(rng, short_side)
    linear = _draw_linear(rng, difficulty)
    low, high = _extent(linear, hand.cutout.box)
    wide, tall = high - low
    least = max(heights[0], 0.8 * heights[1] * (1 - difficulty))
    scale = rng.uniform(least, heights[1]) * min(height, width) / tall
    scale = min(scale, 0.97 * width / wide)
    wide, tall = wide * scale, tall * scale
    left, top = _draw_place(rng, (width - wide, height - tall), tall, difficulty)
    matrix = np.hstack([scale * linear, (np.array([left, top]) - scale * low)[:, None]])
    cover: Any = np.full_like(hand.cutout.cover, 255) if plain else hand.cutout.cover
    if not plain and rng.random() < _TRIMMED * difficulty:
        # The rim that every cut leaves must not tell where the hand is.
        cover = cv2.erode(cover, np.ones((3, 3), np.uint8))
    layer = (
        Layer(hand.photograph, cover, matrix, continues=True)
        if plain
        else Layer(hand.cutout.colour, cover, matrix, continues=rng.random() < 0.5)
    )
    ground = cut_background(backgrounds, rng, height, width)
    box = (left, top, min(left + wide, width), min(top + tall, height))
    tinted = 0.0 if plain else difficulty
    return Scene(
        ground=ground,
        hand=layer,
        gains=np.exp(tinted * (rng.uniform(-0.5, 0.35) + rng.uniform(-0.1, 0.1, 3))).astype(
            np.float32
        ),
        gamma=float(np.exp(tinted * rng.uniform(-0.3, 0.3))),
        softness=float(rng.uniform(0.4, 1.2)) if rng.random() < 0.4 else 0.0,
        covers=_draw_covers(rng, box) if rng.random() < covered else (),
        box=box,
    )


def photograph_scene(hand: Hand) -> Scene:
    """Return the scene of a photograph as it is."""
    picture = hand.photograph
    cover = np.full(picture.shape[:2], 255, np.uint8)
    layer = Layer(picture, cover, np.eye(2, 3), continues=True)
    left, top, right, bottom = hand.cutout.box
    box = (float(left), float(top), float(right), float(bottom))
    return Scene(picture, layer, np.ones(3, np.float32), 1.0, 0.0, (), box)


def _draw_linear(rng: Generator, difficulty: float) -> NDArray[np.float64]:
    """Draw rotation, aspect, slant and mirror image, [2, 2]."""
    tilt = np.radians(rng.uniform(-_TILT, _TILT) * difficulty)
    aspect = _ASPECT ** (rng.uniform(-1, 1) * difficulty)
    slant = rng.uniform(-_SLANT, _SLANT) * difficulty
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    linear = turn @ np.array([[aspect, slant], [0, 1 / aspect]])
    side = -1.0 if rng.random() < 0.5 else 1.0
    return np.asarray(linear @ np.diag((side, 1.0)), np.float64)


def _extent(
    linear: NDArray[np.float64], box: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the least and greatest x and y of a box whose corners are moved, [2] each."""
    left, top, right, bottom = box
    corners = linear @ np.array([[left, right, left, right], [top, top, bottom, bottom]])
    return corners.min(1), corners.max(1)


def _draw_place(
    rng: Generator, room: tuple[float, float], tall: float, difficulty: float
) -> tuple[float, float]:
    """Draw left and top of a hand, which stands on the frame's lower edge half the time. Without
    difficulty, it always does, in the middle."""
    left = room[0] * (0.5 + rng.uniform(-0.5, 0.5) * difficulty)
    if rng.random() < 1 - 0.5 * difficulty:
        return float(left), float(max(0, room[1]) + rng.uniform(0, 0.04) * tall)
    return float(left), float(rng.uniform(min(0, room[1]), max(0, room[1])))


def _draw_covers(
    rng: Generator, box: tuple[float, float, float, float]
) -> tuple[tuple[tuple[int, int, int, int], tuple[float, float, float]], ...]:
    """Draw a strip or a block before the hand, of at most a tenth of its box."""
    left, top, right, bottom = box
    wide, tall = right - left, bottom - top
    share = rng.uniform(0.02, 0.1)
    across = float(np.clip(np.exp(rng.uniform(-1.5, 1.5)) * np.sqrt(share), share, 1))
    x, y = left + rng.uniform(0, 1 - across) * wide, top + rng.uniform(0, 1 - share / across) * tall
    first = (max(0, round(x)), max(0, round(y)))
    last = (max(0, round(x + across * wide)), max(0, round(y + share / across * tall)))
    red, green, blue = rng.uniform(0, 255, 3)
    return (((*first, *last), (float(red), float(green), float(blue))),)
