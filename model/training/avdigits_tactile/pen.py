"""The force on a pen over time, simulated from the picture of what it wrote.

MNIST has pictures only, so neither the order of the strokes nor the force was recorded. What is
real is the line: its path, its width and its darkness. The rest is simulated:

1. The picture is enlarged four times, and thinned to lines of one pixel.
2. The pen follows them: from the highest loose end, straight on at crossings, until no line goes
   on; then it is lifted, and begins at the highest loose end that is left.
3. It is slower in curves, by the two-thirds power law of handwriting (Lacquaniti, Terzuolo,
   Viviani, 1983): speed is proportional to curvature to the power of -1/3.
4. The force is the width of the line times its darkness: 0.5 N for each pixel of MNIST of full
   darkness. It rises and falls within 20 ms, and is 0 while the pen is lifted.
"""

from __future__ import annotations

import cv2
import numpy as np

from model.arrays import BoolArray, Float64Array, UInt8Array
from model.media.series import Series

#: A pixel (row, column).
Pixel = tuple[int, int]

#: Values a second of the simulated sensor.
RATE_HZ = 200
#: Newtons for each pixel of the picture that the line is wide, at full darkness.
FORCE_N = 0.5
#: Enlargement before thinning; the level above which an enlarged pixel is ink, of 255.
_ENLARGED, _INK = 4, 110
#: Pixels a second of the picture on a line of a curvature of 1 / pixel, and bounds of curvature.
_SPEED, _CURVATURE = 38.0, (0.03, 1.0)
#: Seconds in which the force rises and falls; pixels a second of the lifted pen.
_RAMP_S, _LIFTED_SPEED = 0.02, 90.0
#: Steps over which the direction of a line is the mean; farthest pixel beyond a crossing.
_LOOK_BACK, _LEAP = 6, 5
#: Enlarged pixels of a line that is too short to be written.
_SHORTEST = 7


def pen_force(picture: UInt8Array) -> Series:
    """Return the force in newtons on the pen that wrote a picture [h, w], ink bright."""
    large = cv2.resize(picture, None, fx=_ENLARGED, fy=_ENLARGED, interpolation=cv2.INTER_CUBIC)
    ink = np.pad(large, 2) > _INK
    if not ink.any():
        ink = np.pad(large, 2) >= large.max()
    half_width = cv2.distanceTransform(ink.astype(np.uint8), cv2.DIST_L2, 5)
    darkness = cv2.GaussianBlur(np.pad(large, 2).astype(np.float32) / 255, (0, 0), 2.0)
    pressure = FORCE_N * (2 * half_width / _ENLARGED) * np.clip(darkness, 0, 1)
    times: list[Float64Array] = []
    forces: list[Float64Array] = []
    now, last = 0.0, None
    lines = thin(ink)
    if not lines.any():  # a dot, of which thinning leaves nothing
        lines.flat[half_width.argmax()] = True
    for stroke in trace(lines):
        path = _smooth(np.array(stroke, np.float64))  # [n, 2]
        if last is not None:
            now += float(np.hypot(*(path[0] - last))) / _ENLARGED / _LIFTED_SPEED + _RAMP_S
        seconds = now + _seconds(path / _ENLARGED)
        rows, columns = np.array(stroke).T
        force = _smooth(pressure[rows, columns].astype(np.float64)[:, None])[:, 0]
        rise = np.clip((seconds - now) / _RAMP_S, 0, 1)
        fall = np.clip((seconds[-1] - seconds) / _RAMP_S, 0, 1)
        times.append(seconds)
        forces.append(force * np.minimum(rise, fall))
        now, last = float(seconds[-1]), path[-1]
    force_times, force = np.concatenate(times), np.concatenate(forces)
    count = max(2, int(np.ceil(now * RATE_HZ)) + 1)
    time_s = np.arange(count) / RATE_HZ
    return Series(time_s, np.interp(time_s, force_times, force, right=0.0).astype(np.float32))


def thin(ink: BoolArray) -> BoolArray:
    """Thin lines [h, w] to one pixel (Zhang and Suen, 1984). The border must be blank."""
    lines = ink.copy()
    while True:
        before = lines.copy()
        for second in (False, True):
            around = _around(lines)  # [8, h, w], from above clockwise
            count = around.sum(0)
            turns = (~around & np.roll(around, -1, 0)).sum(0)
            up, right, down, left = around[0], around[2], around[4], around[6]
            if second:
                keep = (up & right & left) | (up & down & left)
            else:
                keep = (up & right & down) | (right & down & left)
            lines &= ~((count >= 2) & (count <= 6) & (turns == 1) & ~keep)
        if (before == lines).all():
            return lines


def trace(lines: BoolArray) -> list[list[Pixel]]:
    """Return the strokes of thin lines, each its pixels in the order of writing."""
    unwritten = {(int(y), int(x)) for y, x in np.argwhere(lines)}
    strokes: list[list[Pixel]] = []
    while unwritten:
        ends = [pixel for pixel in unwritten if len(_near(pixel, unwritten, 1)) <= 1]
        stroke = [min(ends or unwritten, key=lambda pixel: (pixel[0] + 0.3 * pixel[1], pixel))]
        unwritten.discard(stroke[0])
        while (following := _next(stroke, unwritten)) is not None:
            stroke.append(following)
            unwritten.discard(following)
        strokes.append(stroke)
    longest = max(map(len, strokes))
    return [stroke for stroke in strokes if len(stroke) >= min(_SHORTEST, longest)]


def _next(stroke: list[Pixel], unwritten: set[Pixel]) -> Pixel | None:
    """Return the next pixel of a stroke, the straightest; None where the stroke ends."""
    y, x = stroke[-1]
    back = stroke[-_LOOK_BACK:][0]
    along = np.array([y - back[0], x - back[1]], np.float64)
    along /= max(float(np.hypot(*along)), 1e-9)

    def straightness(pixel: Pixel) -> float:
        step = np.array([pixel[0] - y, pixel[1] - x], np.float64)
        return float(step @ along) / float(np.hypot(*step))

    near = _near((y, x), unwritten, 1)
    if near:
        return max(near, key=lambda pixel: (straightness(pixel), pixel))
    ahead = [pixel for pixel in _near((y, x), unwritten, _LEAP) if straightness(pixel) > 0.7]
    return min(ahead, key=lambda pixel: (np.hypot(pixel[0] - y, pixel[1] - x), pixel), default=None)


def _near(pixel: Pixel, unwritten: set[Pixel], reach: int) -> list[Pixel]:
    y, x = pixel
    around = range(-reach, reach + 1)
    cells = ((y + dy, x + dx) for dy in around for dx in around if dy or dx)
    return [cell for cell in cells if cell in unwritten]


def _around(lines: BoolArray) -> BoolArray:
    """Return the eight neighbours of each pixel, [8, h, w], from above clockwise."""
    shifts = ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))
    return np.stack([np.roll(lines, shift, (0, 1)) for shift in shifts])


def _smooth(values: Float64Array) -> Float64Array:
    """Return the mean of values [n, d] over five neighbours; the ends stay."""
    if len(values) < 3:
        return values
    padded = np.concatenate([values[:1], values[:1], values, values[-1:], values[-1:]])
    smooth = sum(padded[i : i + len(values)] for i in range(5)) / 5
    return np.asarray(smooth, np.float64)


def _seconds(path: Float64Array) -> Float64Array:
    """Return when the pen is at each point of a path [n, 2] in pixels of the picture, from 0."""
    steps = np.diff(path, axis=0)
    lengths = np.maximum(np.hypot(*steps.T), 1e-6)
    if len(steps) < 2:
        return np.concatenate([[0.0], np.cumsum(lengths / _SPEED)])
    angles = np.unwrap(np.arctan2(steps[:, 0], steps[:, 1]))
    turn = np.abs(np.gradient(_smooth(angles[:, None])[:, 0]))
    curvature = np.clip(turn / lengths, *_CURVATURE)
    speed = _SPEED * _smooth(curvature[:, None])[:, 0] ** (-1 / 3)
    return np.concatenate([[0.0], np.cumsum(lengths / speed)])
