"""Shrink pictures by averages over areas, as OpenCV's INTER_AREA does, to the bit.

Where areas begin or end within a pixel, OpenCV adds up one value after another. Where both scales
are ratios of small odd numbers of pixels, as from 320 x 240 to 128 x 96 (5 / 2), two small matrix
products take half the time.
"""

from __future__ import annotations

from functools import lru_cache
from math import gcd

import cv2
import numpy as np

from model.arrays import Float32Array, UInt8Array

#: Largest numerator of a scale for which products give OpenCV's result: see `_is_exact`.
_MAX_NUMERATOR = 15


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

    With odd numerators p and r an average is a whole number of p r-ths, so it differs from the
    middle between two integers by at least 1 / (2 p r). Up to 15 each, that is 4 times the largest
    error of OpenCV's sums. OpenCV is as fast with areas of whole pixels.
    """
    (p, q), (r, s) = rows, columns
    return p % 2 == 1 and r % 2 == 1 and max(p, r) <= _MAX_NUMERATOR and max(q, s) > 1


def _ratio(length: int, resized: int) -> tuple[int, int]:
    """Return the scale `length` / `resized` in lowest terms."""
    divisor = gcd(length, resized)
    return length // divisor, resized // divisor


def _average(picture: UInt8Array, rows: tuple[int, int], columns: tuple[int, int]) -> UInt8Array:
    """Return the picture [h, w, 3], shrunk by the scales `rows` and `columns`."""
    height, width, _ = picture.shape
    (p, q), (r, s) = rows, columns
    values = picture.astype(np.float32).reshape(height // p, p, width * 3)
    sums = _coverage(p, q) @ values  # [h / p, q, w * 3], integers below 2**24, so exact
    sums = sums.reshape(-1, r * 3) @ _pixel_coverage(r, s)  # [h q w / p r, s * 3]
    resized = cv2.convertScaleAbs(sums, alpha=1 / (p * r))
    return np.asarray(resized, np.uint8).reshape(height // p * q, width // r * s, 3)


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
