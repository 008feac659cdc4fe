"""Backgrounds that hands are composed onto: drawn, so that no licence and no download is needed.

`TRAINING`, `DEVELOPMENT` and `TEST` are families of kinds that share none, so that an accuracy on
the last two says something about backgrounds that were never seen.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator

from model.arrays import Float32Array, UInt8Array

#: Height and width in pixels of the backgrounds in a pool.
SIZE = (160, 214)


@lru_cache(maxsize=8)
def pool(kinds: tuple[str, ...], count: int, seed: int) -> tuple[UInt8Array, ...]:
    """Draw `count` backgrounds, uint8 RGB [160, 214, 3], of these kinds, as many of each."""
    return tuple(
        KINDS[kinds[index % len(kinds)]](np.random.default_rng([seed, index]))
        for index in range(count)
    )


def cut_background(
    backgrounds: tuple[UInt8Array, ...], rng: Generator, height: int, width: int
) -> UInt8Array:
    """Return a random part of a random background of the pool, uint8 RGB [height, width, 3]."""
    background = backgrounds[int(rng.integers(len(backgrounds)))]
    rows, columns = SIZE
    scale = min(rows / height, columns / width) * rng.uniform(0.45, 1)
    tall, wide = max(2, int(scale * height)), max(2, int(scale * width))
    top, left = int(rng.integers(rows - tall + 1)), int(rng.integers(columns - wide + 1))
    part: Any = background[top : top + tall, left : left + wide]
    if rng.random() < 0.5:
        part = part[:, ::-1]
    if rng.random() < 0.3:
        part = part[::-1]
    if rng.random() < 0.3:
        part = part[:, :, rng.permutation(3)]
    return np.asarray(cv2.resize(np.ascontiguousarray(part), (width, height)), np.uint8)


def _colour(rng: Generator) -> tuple[float, float, float]:
    """Draw a colour, RGB 0 to 255; one in four is that of skin or wood."""
    if rng.random() < 0.25:
        light = rng.uniform(60, 240)
        red, green, blue = light, light * rng.uniform(0.6, 0.9), light * rng.uniform(0.35, 0.8)
        return float(red), float(green), float(blue)
    if rng.random() < 0.3:
        grey = float(rng.uniform(0, 255))
        return grey, grey, grey
    red, green, blue = rng.uniform(0, 255, 3)
    return float(red), float(green), float(blue)


def _flat(rng: Generator) -> Float32Array:
    picture = np.empty((*SIZE, 3), np.float32)
    picture[:] = _colour(rng)
    return picture


def _finish(picture: Float32Array, rng: Generator) -> UInt8Array:
    """Light the picture unevenly, and blur it as if it were out of focus, now and then."""
    rows, columns = SIZE
    if rng.random() < 0.5:
        across, down = rng.uniform(-0.4, 0.4, 2)
        ramp = 1 + np.linspace(-down, down, rows)[:, None] + np.linspace(-across, across, columns)
        picture = picture * ramp[:, :, None].astype(np.float32)
    if rng.random() < 0.35:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.7, 5)), np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _noise(rng: Generator, channels: int, slope: float) -> Float32Array:
    """Draw noise [160, 214, channels] whose amplitude falls with frequency^slope, about 0 to 1."""
    rows, columns = SIZE
    total = np.zeros((rows, columns, channels), np.float32)
    cells, weight = 2, 1.0
    while cells < rows:
        grid = rng.random((cells, round(cells * columns / rows), channels), np.float32) - 0.5
        big = cv2.resize(grid, (columns, rows), interpolation=cv2.INTER_CUBIC)
        total += np.float32(weight) * big.reshape(total.shape)
        cells, weight = 2 * cells, weight * 2.0**-slope
    centred = (total - total.mean()) / np.float32(5 * total.std() + 1e-6)
    return np.asarray(0.5 + centred, np.float32)


def _clouds(rng: Generator) -> UInt8Array:
    """Smooth to rough noise between two colours, or of three independent channels."""
    slope = rng.uniform(0.2, 1.6)
    if rng.random() < 0.35:
        return _finish(255 * _noise(rng, 3, slope), rng)
    share = np.clip(_noise(rng, 1, slope) * rng.uniform(0.7, 2.5), 0, 1)
    return _finish(_flat(rng) * (1 - share) + _flat(rng) * share, rng)


def _room(rng: Generator) -> UInt8Array:
    """Things on a wall: boxes, discs and strips of random colours, some with a texture."""
    picture = _flat(rng) + 30 * (_noise(rng, 1, 1.0) - 0.5)
    rows, columns = SIZE
    for _ in range(int(rng.integers(4, 40))):
        x, y = int(rng.integers(columns)), int(rng.integers(rows))
        reach, colour = rng.uniform(0.02, 0.35) * rows, _colour(rng)
        kind = rng.random()
        if kind < 0.45:
            sides = (reach * rng.uniform(0.2, 2, 2), rng.uniform(0, 90))
            upright = rng.random() < 0.6
            corners = cv2.boxPoints(((x, y), tuple(sides[0]), 0 if upright else sides[1]))
            cv2.fillPoly(picture, [corners.astype(np.int32)], colour, cv2.LINE_AA)
        elif kind < 0.75:
            axes = (max(1, int(reach / 2)), max(1, int(reach / 2 * rng.uniform(0.3, 1))))
            angle = float(rng.uniform(0, 180))
            cv2.ellipse(picture, (x, y), axes, angle, 0, 360, colour, -1, cv2.LINE_AA)
        else:
            corners = np.array([x, y]) + rng.uniform(-reach, reach, (3, 2))
            cv2.fillPoly(picture, [corners.astype(np.int32)], colour, cv2.LINE_AA)
    if rng.random() < 0.5:
        picture += rng.uniform(10, 90) * (_noise(rng, 3, rng.uniform(0, 1)) - 0.5)
    return _finish(picture, rng)


def _rods(rng: Generator) -> UInt8Array:
    """Thick lines with round ends, like fingers, twigs, cables and pens."""
    picture = _flat(rng) + 60 * (_noise(rng, 3, 1.0) - 0.5)
    rows, columns = SIZE
    base, spread = rng.uniform(0, np.pi), rng.uniform(0.1, 1.6)
    for _ in range(int(rng.integers(5, 45))):
        x, y = rng.uniform(0, columns), rng.uniform(0, rows)
        angle, reach = base + rng.normal(0, spread), rng.uniform(0.05, 0.6) * rows
        end = (round(x + reach * np.cos(angle)), round(y + reach * np.sin(angle)))
        thick = max(1, round(rng.uniform(0.005, 0.12) * rows))
        cv2.line(picture, (round(x), round(y)), end, _colour(rng), thick, cv2.LINE_AA)
    return _finish(picture, rng)


def _stripes(rng: Generator) -> UInt8Array:
    """Stripes or a chequered pattern, straight or bent."""
    rows, columns = SIZE
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    bend = rng.uniform(0, 25) * (_noise(rng, 2, 2.0) - 0.5)
    angle = rng.uniform(0, np.pi)
    x, y = x + bend[:, :, 0], y + bend[:, :, 1]
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    period = rng.uniform(4, 60)
    wave = np.sin(2 * np.pi * along / period)
    if rng.random() < 0.5:
        wave = wave * np.sin(2 * np.pi * across / (period * rng.uniform(0.5, 2)))
    share = np.clip(0.5 + wave * rng.uniform(0.5, 5), 0, 1)[:, :, None]
    picture = _flat(rng) * (1 - share) + _flat(rng) * share
    return _finish(picture + 40 * (_noise(rng, 1, 0.8) - 0.5), rng)


def _leaves(rng: Generator) -> UInt8Array:
    """Many overlapping ellipses of similar colours, like foliage, gravel or cloth."""
    picture = _flat(rng)
    rows, columns = SIZE
    colour, spread = np.asarray(_colour(rng)), rng.uniform(10, 70)
    reach = rng.uniform(0.02, 0.1) * rows
    for _ in range(int(rng.integers(100, 400))):
        centre = (int(rng.integers(columns)), int(rng.integers(rows)))
        axes = (
            max(1, int(reach * rng.uniform(0.4, 1.6))),
            max(1, int(reach * rng.uniform(0.2, 1))),
        )
        red, green, blue = np.clip(colour + rng.normal(0, spread, 3) + rng.normal(0, 40), 0, 255)
        angle = float(rng.uniform(0, 180))
        shade = (float(red), float(green), float(blue))
        cv2.ellipse(picture, centre, axes, angle, 0, 360, shade, -1, cv2.LINE_AA)
    return _finish(picture, rng)


def _mosaic(rng: Generator) -> UInt8Array:
    """Cells around random points (Voronoi), each of one colour."""
    rows, columns = SIZE
    count = int(rng.integers(12, 160))
    seeds = np.ones(SIZE, np.uint8)
    seeds.reshape(-1)[rng.choice(rows * columns, count, replace=False)] = 0
    _, cells = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5)
    colours = np.array([_colour(rng) for _ in range(int(cells.max()) + 1)], np.float32)
    return _finish(colours[cells], rng)


def _waves(rng: Generator) -> UInt8Array:
    """Sums of waves from several places, different in each channel."""
    rows, columns = SIZE
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    picture = np.zeros((rows, columns, 3), np.float32)
    for _ in range(int(rng.integers(3, 7))):
        distance = np.hypot(x - rng.uniform(-50, 260), y - rng.uniform(-50, 210))
        wave = np.sin(distance / rng.uniform(2, 15) + rng.uniform(0, 6))
        picture += wave[:, :, None] * rng.uniform(-45, 45, 3).astype(np.float32)
    return _finish(picture + np.asarray(_colour(rng), np.float32), rng)


def _bricks(rng: Generator) -> UInt8Array:
    """A wall of bricks or tiles, each of its own shade, with mortar between."""
    rows, columns = SIZE
    picture = _flat(rng)
    tall, wide = rng.uniform(8, 36), rng.uniform(12, 70)
    colour, spread, gap = np.asarray(_colour(rng)), rng.uniform(5, 50), rng.uniform(1, 4)
    for row in range(int(rows / tall) + 2):
        offset = rng.uniform(0, wide) if rng.random() < 0.8 else 0
        for column in range(-1, int(columns / wide) + 2):
            left, top = column * wide + offset, row * tall - 5
            shade = np.clip(colour + rng.normal(0, spread, 3) + rng.normal(0, 20), 0, 255)
            first = (round(left), round(top))
            last = (round(left + wide - gap), round(top + tall - gap))
            red, green, blue = (float(value) for value in shade)
            cv2.rectangle(picture, first, last, (red, green, blue), -1)
    return _finish(picture + 30 * (_noise(rng, 1, 0.4) - 0.5), rng)


def _writing(rng: Generator) -> UInt8Array:
    """A page or a poster: lines of letters of several sizes and colours."""
    picture = _flat(rng)
    rows, columns = SIZE
    letters = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHKLMNPRSTUVWXYZ&?!%"))
    y = 0.0
    while y < rows + 20:
        size, colour = rng.uniform(0.25, 1.6), _colour(rng)
        text = "".join(rng.choice(letters, 40))
        y += 24 * size
        at = (int(rng.integers(-40, 20)), round(y))
        thick = int(rng.integers(1, 4))
        cv2.putText(picture, text, at, int(rng.integers(0, 4)), size, colour, thick, cv2.LINE_AA)
        if rng.random() < 0.15:
            block = (round(rng.uniform(0, columns)), round(y))
            cv2.rectangle(picture, block, (block[0] + 60, block[1] + 40), _colour(rng), -1)
    return _finish(picture, rng)


def _wanderings(rng: Generator) -> UInt8Array:
    """Closed and open curves that wander, filled and not, over a shaded ground."""
    picture = _flat(rng) * (0.6 + 0.8 * _noise(rng, 1, 2.0))
    rows, columns = SIZE
    for _ in range(int(rng.integers(5, 20))):
        turns = np.cumsum(rng.normal(0, 0.5, 60))
        steps = np.stack([np.cos(turns), np.sin(turns)], 1) * rng.uniform(1, 6)
        start = np.array([rng.uniform(0, columns), rng.uniform(0, rows)])
        line = (start + np.cumsum(steps, 0)).astype(np.int32)
        if rng.random() < 0.4:
            cv2.fillPoly(picture, [line], _colour(rng), cv2.LINE_AA)
        else:
            thick = int(rng.integers(1, 14))
            cv2.polylines(picture, [line], False, _colour(rng), thick, cv2.LINE_AA)
    return _finish(picture, rng)


#: The function that draws each kind of background.
KINDS: dict[str, Callable[[Generator], UInt8Array]] = {
    "clouds": _clouds,
    "room": _room,
    "rods": _rods,
    "stripes": _stripes,
    "leaves": _leaves,
    "mosaic": _mosaic,
    "waves": _waves,
    "bricks": _bricks,
    "writing": _writing,
    "wanderings": _wanderings,
}
#: Kinds of backgrounds to train on, to choose an epoch by, and to test on.
TRAINING = ("clouds", "room", "rods", "stripes", "leaves")
DEVELOPMENT = ("mosaic", "waves")
TEST = ("bricks", "writing", "wanderings")
