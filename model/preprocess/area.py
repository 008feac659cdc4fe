"""Shrink pictures by averages over areas, as OpenCV's INTER_AREA does, to the bit.

Where areas begin or end within a pixel, OpenCV adds up one value after another. Where both scales
are ratios of small numbers of pixels, as from 320 x 240 to 128 x 96 (5 / 2) or from 240 x 320 to
72 x 96 (10 / 3), two small matrix products take half to two thirds of the time.

The products are exact. OpenCV's sums are not, but near enough, except for an average that lies
halfway between two integers: there OpenCV's rounding of each product and sum decides, and the same
operations are done here for these pixels alone. On processors where OpenCV's build multiplies and
adds in one operation, its own result may be the other neighbour there.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, floor, gcd
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from model.arrays import Float32Array, UInt8Array

#: Largest numerators of scales for which products give OpenCV's result: see `_is_exact`.
_MAX_ODD_NUMERATOR, _MAX_NUMERATOR = 15, 20
#: Share of averages halfway between two integers up to which their pixels are computed alone.
_MAX_HALFWAY = 0.02


class _Taps(NamedTuple):
    """The pixels of each output pixel along one side, as OpenCV weighs them.

    Attributes:
        first: Index of the first one, [outputs].
        weights: Of it and those behind it, [T, outputs]; 0 where there are fewer than T.
    """

    first: NDArray[np.int64]
    weights: Float32Array


def resize_area(picture: UInt8Array, height: int, width: int) -> UInt8Array:
    """Resize a picture [h, w, 3] to [height, width, 3]: average when shrinking, bilinear when
    enlarging."""
    old_height, old_width, _ = picture.shape
    if height > old_height or width > old_width:
        resized = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    elif _is_exact(_ratio(old_height, height), _ratio(old_width, width)):
        resized = _average(picture, _ratio(old_height, height), _ratio(old_width, width))
    else:
        resized = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(resized, np.uint8)


def _is_exact(rows: tuple[int, int], columns: tuple[int, int]) -> bool:
    """Return whether products give OpenCV's result, and are faster, for scales `rows` and
    `columns`, each a ratio in lowest terms.

    An average is a whole number of p r-ths, p and r being the numerators. With both odd it differs
    from the middle between two integers by at least 1 / (2 p r), else by 0 or at least 1 / (p r).
    Up to 15, or up to 20, that is 4 times the largest error of OpenCV's sums. OpenCV is as fast
    with areas of whole pixels.
    """
    (p, q), (r, s) = rows, columns
    most = _MAX_ODD_NUMERATOR if p * r % 2 else _MAX_NUMERATOR
    return max(p, r) <= most and max(q, s) > 1


def _ratio(length: int, resized: int) -> tuple[int, int]:
    """Return the scale `length` / `resized` in lowest terms."""
    divisor = gcd(length, resized)
    return length // divisor, resized // divisor


def _average(picture: UInt8Array, rows: tuple[int, int], columns: tuple[int, int]) -> UInt8Array:
    """Return the picture [h, w, 3], shrunk by the scales `rows` and `columns`."""
    height, width, _ = picture.shape
    (p, q), (r, s) = rows, columns
    shape = (height // p * q, width // r * s, 3)
    values = picture.astype(np.float32).reshape(height // p, p, width * 3)
    sums = _coverage(p, q) @ values  # [h / p, q, w * 3], integers below 2**24, so exact
    sums = sums.reshape(-1, r * 3) @ _pixel_coverage(r, s)  # [h q w / p r, s * 3]
    scale = 1 / (p * r)
    if p * r % 2:
        return np.asarray(cv2.convertScaleAbs(sums, alpha=scale), np.uint8).reshape(shape)
    # A quarter of the least step up and down changes the rounding of halfway values alone.
    above = cv2.convertScaleAbs(sums, alpha=scale, beta=scale / 4)
    below = cv2.convertScaleAbs(sums, alpha=scale, beta=-scale / 4)
    resized = np.asarray(above, np.uint8).reshape(shape)
    halfway = np.flatnonzero(above != below)
    if halfway.size > _MAX_HALFWAY * resized.size:  # a pattern as no camera takes it
        return np.asarray(cv2.resize(picture, shape[1::-1], interpolation=cv2.INTER_AREA), np.uint8)
    if halfway.size:
        resized.reshape(-1)[halfway] = _add_up(picture, shape, halfway)
    return resized


def _add_up(
    picture: UInt8Array, shape: tuple[int, int, int], places: NDArray[np.int64]
) -> UInt8Array:
    """Return the values at `places` of the picture [h, w, 3], shrunk to `shape` and flattened.

    Each operation is one of OpenCV's, in its order and precision.
    """
    height, width, _ = picture.shape
    rows, columns = _taps(height, shape[0]), _taps(width, shape[1])
    pixels, channel = np.divmod(places, 3)
    row, column = np.divmod(pixels, shape[1])
    start = (rows.first[row] * width + columns.first[column]) * 3 + channel
    steps = np.arange(len(columns.weights))[:, None] * 3
    steps = steps + np.arange(len(rows.weights)) * (width * 3)  # [T of columns, T of rows]
    # Beyond the picture's end weights are 0.
    values = picture.reshape(-1).take(start + steps[:, :, None], mode="clip").astype(np.float32)
    lines = _weigh(values, columns.weights[:, None, column])  # [T of rows, places]
    return np.rint(_weigh(lines, rows.weights[:, row])).astype(np.uint8)


def _weigh(values: Float32Array, weights: Float32Array) -> Float32Array:
    """Return the sum over the first axis, one weighted value after another."""
    total, *products = values * weights
    for product in products:
        total = total + product
    return np.asarray(total, np.float32)


@lru_cache(maxsize=64)
def _taps(length: int, resized: int) -> _Taps:
    """Return the weights by which OpenCV shrinks `length` pixels to `resized`."""
    scale = 1 / (resized / length)
    first, weights = [], []
    for output in range(resized):
        begin = output * scale
        end, size = begin + scale, min(scale, length - begin)
        last = min(floor(end), length - 1)
        whole = min(ceil(begin), last)
        of_output = [1 / size] * (last - whole)
        if whole - begin > 1e-3:
            of_output.insert(0, (whole - begin) / size)
            whole -= 1
        if end - last > 1e-3:
            of_output.append(min(end - last, 1, size) / size)
        first.append(whole)
        weights.append(of_output)
    table = np.zeros((max(map(len, weights)), resized), np.float32)
    for output, of_output in enumerate(weights):
        table[: len(of_output), output] = of_output
    return _Taps(np.asarray(first, np.int64), table)


@lru_cache(maxsize=64)
def _coverage(p: int, q: int) -> Float32Array:
    """Return how many q-ths of each of p pixels each of q output pixels covers, [q, p]."""
    begins = np.arange(q)[:, None] * p
    inputs = np.arange(p)[None] * q
    covered = np.minimum(begins + p, inputs + q) - np.maximum(begins, inputs)
    return np.asarray(np.maximum(covered, 0), np.float32)


@lru_cache(maxsize=64)
def _pixel_coverage(p: int, q: int) -> Float32Array:
    """Return the same for pixels of three channels, [p * 3, q * 3]."""
    return np.asarray(np.kron(_coverage(p, q).T, np.eye(3, dtype=np.float32)), np.float32)
