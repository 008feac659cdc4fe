"""Convert decoded pictures to 8-bit RGB, and composite transparent ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.arrays import UInt8Array
from model.media.opencv import cv2
from model.media.types import Unusable

#: Rows that are converted to floats at a time.
_STRIP_ROWS = 128


def to_rgb(picture: NDArray[np.generic]) -> UInt8Array:
    """Convert grey, BGR or BGRA of 8 or 16 bits or floats to uint8 RGB [h, w, 3].

    Transparent pictures are composited (`composite`). Floats are 0 to 1; if any is larger, the
    largest becomes white. Raises Unusable for NaN and infinite values.
    """
    values = _to_uint8(picture)
    if values.ndim == 2 or values.shape[2] == 1:
        return np.asarray(cv2.cvtColor(values, cv2.COLOR_GRAY2RGB), np.uint8)
    if values.shape[2] == 3:
        return np.asarray(cv2.cvtColor(values, cv2.COLOR_BGR2RGB), np.uint8)
    colours = np.asarray(cv2.cvtColor(values, cv2.COLOR_BGRA2RGB), np.uint8)
    return composite(colours, values[..., 3])


def composite(colours: UInt8Array, alpha: UInt8Array) -> UInt8Array:
    """Composite RGB [h, w, 3] with straight `alpha` [h, w] over white.

    The background is black if the alpha-weighted mean of the colours is light, because light
    drawings would disappear on white.
    """
    if alpha.min() == 255:
        return colours
    weighted_sum = 0.0
    for rows in strips(colours):
        channel_sum = colours[rows].astype(np.float32) @ np.ones(3, np.float32)
        weighted_sum += float(np.vdot(channel_sum, alpha[rows].astype(np.float32)))
    is_light = weighted_sum > 127.5 * 3 * float(alpha.sum())
    background = np.float32(0 if is_light else 255)
    composited = np.empty_like(colours)
    for rows in strips(colours):
        difference = colours[rows] - background
        difference *= alpha[rows, :, None].astype(np.float32) / 255
        composited[rows] = np.rint(difference + background)
    return composited


def strips(picture: NDArray[np.generic]) -> list[slice]:
    """Return slices of a few rows each. A whole picture as floats would need too much memory."""
    return [slice(top, top + _STRIP_ROWS) for top in range(0, len(picture), _STRIP_ROWS)]


def _to_uint8(picture: NDArray[np.generic]) -> UInt8Array:
    if picture.dtype == np.uint16:
        return np.asarray(picture >> 8, np.uint8)  # type: ignore[operator]
    if picture.dtype == np.uint8:
        return np.asarray(picture, np.uint8)
    if not np.isfinite(picture).all():
        raise Unusable("the picture contains NaN or infinite values")
    picture = np.atleast_3d(picture)
    white = max(1.0, float(picture[..., :3].max()))
    values = np.empty(picture.shape, np.uint8)
    for rows in strips(picture):
        strip = np.array(picture[rows], np.float32)
        strip[..., :3] /= white
        values[rows] = np.rint(255 * np.clip(strip, 0, 1))
    return values
