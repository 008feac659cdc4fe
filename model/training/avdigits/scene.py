"""Scenes to train on: a handwritten digit somewhere in a colour frame."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from model.arrays import Float32Array, UInt8Array
from model.training.frame_size import draw_size

#: Height of the digit's ink over the frame's.
HEIGHTS = (0.22, 0.92)
#: The smaller of HEIGHTS, which are hardest to read: training has more of them.
SMALL = (0.22, 0.45)
#: Length of a stroke or width of a ring of the clutter, at most, over the digit's height.
LARGEST_STROKE = 0.5
#: Pixels of a handwritten digit that are brighter than this, of 255, are ink.
INK = 50
#: Least difference in luma between ink and paper, of 255.
CONTRAST = 60
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Scene:
    """A digit on paper.

    - `paper`: uint8 RGB [h, w, 3].
    - `ink`: colour of the digit, RGB [3], 0 to 255.
    - `cover`: float32 [h, w], opacity of the ink at each pixel, 0 to 1.
    - `box`: (left, top, right, bottom) of the digit in pixels.
    """

    paper: UInt8Array
    ink: Float32Array
    cover: Float32Array
    box: tuple[float, float, float, float]

    def frame(self, shown: float = 1.0, shift: tuple[float, float] = (0.0, 0.0)) -> UInt8Array:
        """Return the frame, uint8 RGB [h, w, 3].

        The upper fraction `shown` of the digit is written, and moved by `shift` (x, y) pixels.
        """
        cover = self.cover
        if shown < 1:
            cover = cover.copy()
            cover[round(self.box[1] + shown * (self.box[3] - self.box[1])) :] = 0
        if shift != (0.0, 0.0):
            move = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32)
            cover = np.asarray(cv2.warpAffine(cover, move, cover.shape[::-1]), np.float32)
        opacity = cover[:, :, None]
        return np.asarray(self.paper * (1 - opacity) + self.ink * opacity, np.uint8)


def draw_scene(
    digit: UInt8Array,
    rng: Generator,
    short_side: tuple[int, int] = (96, 160),
    heights: tuple[float, float] = HEIGHTS,
    difficulty: float = 1.0,
) -> Scene:
    """Draw a random scene around one picture of a digit.

    `digit` [H, W] is bright ink on black. `short_side` bounds the frame's shorter side in
    pixels, `heights` the digit's height over the frame's. `difficulty` 0 gives large digits,
    upright, in strong contrast on plain paper; 1 the whole range.
    """
    height, width = draw_size(rng, short_side)
    least = max(heights[0], 0.65 * heights[1] * (1 - difficulty))
    cover, box = _place(digit, rng, height, width, (least, heights[1]), difficulty)
    ink, paper_colour = _colours(rng, CONTRAST + 70 * (1 - difficulty))
    paper = _paper(rng, height, width, paper_colour, ink)
    if rng.random() < 0.6 * difficulty:
        paper = _clutter(rng, paper, box, paper_colour, ink)
    return Scene(np.clip(paper, 0, 255).astype(np.uint8), ink, cover, box)


@dataclass(frozen=True)
class Pair:
    """Two digits on one paper: the `frame`, uint8 RGB [h, w, 3], and the digits' boxes (left, top,
    right, bottom) in pixels."""

    frame: UInt8Array
    boxes: tuple[tuple[float, float, float, float], tuple[float, float, float, float]]


def draw_pair(
    digits: tuple[UInt8Array, UInt8Array],
    rng: Generator,
    short_side: tuple[int, int] = (96, 160),
    heights: tuple[float, float] = HEIGHTS,
) -> Pair:
    """Draw a random scene of two digits [H, W], one in each half of the frame, without clutter.

    The first is on the left, or above in a frame that is higher than wide, as often as not.
    """
    height, width = draw_size(rng, short_side)
    beside = width >= height
    half = (height, width // 2) if beside else (height // 2, width)
    places = [_place(digit, rng, *half, heights, 1.0) for digit in digits]
    offset = (half[1], 0) if beside else (0, half[0])
    first = int(rng.integers(2))  # which of them is on the left, or above
    boxes = [box for _, box in places]
    left, top, right, bottom = boxes[1 - first]
    boxes[1 - first] = (left + offset[0], top + offset[1], right + offset[0], bottom + offset[1])
    cover = np.concatenate([places[first][0], places[1 - first][0]], axis=1 if beside else 0)
    ink, paper_colour = _colours(rng, CONTRAST)
    paper = _paper(rng, cover.shape[0], cover.shape[1], paper_colour, ink)
    scene = Scene(np.clip(paper, 0, 255).astype(np.uint8), ink, cover, boxes[0])
    return Pair(scene.frame(), (boxes[0], boxes[1]))


def _place(
    digit: UInt8Array,
    rng: Generator,
    height: int,
    width: int,
    heights: tuple[float, float],
    difficulty: float,
) -> tuple[Float32Array, tuple[float, float, float, float]]:
    """Tilt, slant, scale and move the digit into the frame; return its cover and its box."""
    ys, xs = np.nonzero(digit > INK)
    points = np.stack([xs, ys]).astype(np.float32)
    tilt = np.radians(rng.uniform(-18, 18) * difficulty)
    slant = rng.uniform(-0.2, 0.2) * difficulty
    turn = np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
    linear = turn @ np.array([[rng.uniform(0.85, 1.2), slant], [0, 1]])
    moved = linear @ points
    low, high = moved.min(1) - 0.5, moved.max(1) + 0.5
    wide, tall = high - low
    scale = rng.uniform(*heights) * height / tall
    scale = min(scale, 0.95 * width / wide, 0.95 * height / tall)
    wide, tall = wide * scale, tall * scale
    left, top = rng.uniform(0, width - wide), rng.uniform(0, height - tall)
    offset = np.array([left, top]) - scale * low
    matrix = np.hstack([scale * linear, offset[:, None]]).astype(np.float32)
    interpolation = cv2.INTER_CUBIC if rng.random() < 0.4 else cv2.INTER_LINEAR
    cover = cv2.warpAffine(digit, matrix, (width, height), flags=interpolation)
    cover = np.asarray(cover, np.float32) / 255
    if rng.random() < 0.5:  # a pen's hard edge instead of the soft one of an enlarged picture
        cover = (cover - 0.5) * rng.uniform(1.2, 4) + rng.uniform(0.4, 0.65)
    if rng.random() < 0.3:
        cover = cv2.GaussianBlur(cover, (0, 0), rng.uniform(0.3, 1.0) * height / 120)
    return np.clip(cover, 0, 1), (left, top, left + wide, top + tall)


def _colours(rng: Generator, contrast: float) -> tuple[Float32Array, Float32Array]:
    """Draw the colours of ink and paper, RGB 0 to 255, with at least this contrast in luma."""
    if rng.random() < 0.15:  # black and white
        dark, light = rng.uniform(0, 40), rng.uniform(200, 255)
        ink, paper = np.full(3, dark, np.float32), np.full(3, light, np.float32)
        return (ink, paper) if rng.random() < 0.5 else (paper, ink)
    while True:
        ink, paper = rng.uniform(0, 255, (2, 3)).astype(np.float32)
        if abs(float((ink - paper) @ _LUMA)) >= contrast:
            return ink, paper


def _paper(
    rng: Generator, height: int, width: int, colour: Float32Array, ink: Float32Array
) -> Float32Array:
    """Draw flat, shaded or blotchy paper, whose shades differ from the ink's."""
    paper = np.empty((height, width, 3), np.float32)
    paper[:] = colour
    kind = rng.random()
    if kind < 0.3:
        return paper
    variation = 0.3 * abs(float((ink - colour) @ _LUMA))
    if kind < 0.6:
        across, down = rng.uniform(-1, 1, 2)
        ys, xs = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
        ramp = (across * xs + down * ys) * rng.uniform(0.2, 1) * variation
        return np.asarray(paper + ramp[:, :, None], np.float32)
    cells = rng.integers(2, 9, 2)
    channels = 3 if rng.random() < 0.5 else 1
    blotches = rng.uniform(-1, 1, (*cells, channels)).astype(np.float32)
    shades = cv2.resize(blotches, (width, height), interpolation=cv2.INTER_LINEAR)
    strength = np.float32(rng.uniform(0.2, 1) * variation)
    return paper + shades.reshape(height, width, channels) * strength


def _clutter(
    rng: Generator,
    paper: Float32Array,
    box: tuple[float, float, float, float],
    colour: Float32Array,
    ink: Float32Array,
) -> Float32Array:
    """Draw spots and blocks of any size, and strokes and rings much smaller than the digit.

    A ring as large as the digit would be a zero, and a stroke a one.
    """
    height, width = paper.shape[:2]
    for _ in range(int(rng.integers(1, 8))):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        blob = rng.random() < 0.5
        reach = rng.uniform(0.02, 0.2) * min(height, width)
        if not blob:
            reach = rng.uniform(0.05, LARGEST_STROKE / 2) * (box[3] - box[1])
        beside = (x + reach < box[0] or x - reach > box[2]
                  or y + reach < box[1] or y - reach > box[3])  # fmt: skip
        full = beside or rng.random() < 0.1
        if rng.random() < 0.5:
            shade = colour + (ink - colour) * np.float32(rng.uniform(0.2, 1.0 if full else 0.35))
        else:
            amount = np.float32(1 if full else 0.25)
            shade = colour + (rng.uniform(0, 255, 3).astype(np.float32) - colour) * amount
        mark = _blob if blob else _stroke
        mark(rng, paper, (x, y), reach, tuple(float(c) for c in shade))
    return paper


def _blob(
    rng: Generator,
    paper: Float32Array,
    at: tuple[float, float],
    reach: float,
    shade: tuple[float, ...],
) -> None:
    x, y = round(at[0]), round(at[1])
    if rng.random() < 0.5:
        cv2.circle(paper, (x, y), max(1, round(reach / 2)), shade, -1, cv2.LINE_AA)
        return
    angle = rng.uniform(0, np.pi)
    dx, dy = round(reach * np.cos(angle)), round(reach * np.sin(angle))
    cv2.rectangle(paper, (x - abs(dx), y - abs(dy)), (x + abs(dx), y + abs(dy)), shade, -1)


def _stroke(
    rng: Generator,
    paper: Float32Array,
    at: tuple[float, float],
    reach: float,
    shade: tuple[float, ...],
) -> None:
    x, y = round(at[0]), round(at[1])
    thick = max(1, round(rng.uniform(0.005, 0.03) * min(paper.shape[:2])))
    kind = int(rng.integers(4))
    if kind == 0:
        angle = rng.uniform(0, np.pi)
        dx, dy = round(reach * np.cos(angle)), round(reach * np.sin(angle))
        cv2.line(paper, (x - dx, y - dy), (x + dx, y + dy), shade, thick, cv2.LINE_AA)
    elif kind == 1:
        cv2.circle(paper, (x, y), max(1, round(reach)), shade, thick, cv2.LINE_AA)
    elif kind == 2:
        dx, dy = round(rng.uniform(0.3, 1) * reach), round(rng.uniform(0.3, 1) * reach)
        cv2.rectangle(paper, (x - dx, y - dy), (x + dx, y + dy), shade, thick)
    else:
        corners = np.array([x, y]) + rng.uniform(-reach, reach, (3, 2))
        cv2.polylines(paper, [corners.astype(np.int32)], False, shade, thick, cv2.LINE_AA)
