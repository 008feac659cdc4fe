"""Convert pictures to normalised frames."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from model.arrays import Float32Array, Float64Array, UInt8Array
from model.preprocess.area import resize_area
from model.preprocess.bilinear import bilinear_weights, cropped_bilinear_weights
from model.preprocess.prepared import Prepared
from model.preprocess.specs import FrameSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model.media.types import Pictures

#: Share of the pixels that lie above the level of the strongest foreground. The smallest digits
#: cover about as much.
_FOREGROUND_SHARE = 0.003
#: Lowest level (of 255) that is scaled up to 1.
_MIN_FOREGROUND = 12.0
#: All values of a channel.
_VALUES = np.arange(256, dtype=np.float32)


def prepare_frames(pictures: Pictures, spec: FrameSpec, steps: int) -> Prepared:
    """Return the pictures as a normalised tensor [T or 1, C, H, W], as `spec` describes it.

    `frames` "spread" takes the pictures at the centres of `steps` equal parts of the sequence.
    T is 1 where all of them are the same picture. Edges are in pixels of the middle picture.
    """
    indices = segment_centres(len(pictures.frames), 1 if spec.frames == "middle" else steps)
    first_steps = {index: step for step, index in reversed(list(enumerate(indices)))}
    order = indices if len(first_steps) > 1 else indices[:1]
    tensor = np.zeros((len(order), spec.channels, *spec.size), np.float32)
    for step, index in enumerate(order):
        if step == first_steps[index]:
            _fill(tensor[step], pictures.frames[index], spec)
        else:
            tensor[step] = tensor[first_steps[index]]
    middle = pictures.frames[indices[len(indices) // 2]]
    rows, columns = _edges(middle, spec)
    return Prepared(tensor, "y", "x", rows, columns, lambda: middle)


def stretch_picture(picture: UInt8Array, spec: FrameSpec) -> Float32Array:
    """Return a picture [h, w, 3], resized to the spec's size whatever its aspect, and normalised,
    as a tensor [1, C, H, W].

    For training on random crops of natural pictures: `background` must be "none".
    """
    rows, columns = spec.size
    row_weights = bilinear_weights(picture.shape[0], rows)
    column_weights = bilinear_weights(picture.shape[1], columns)
    tensor = np.empty((1, 3, rows, columns), np.float32)
    _normalize(_resize_axes(picture, row_weights, column_weights), spec, tensor[0])
    return tensor


def segment_centres(count: int, parts: int) -> list[int]:
    """Return the indices at the centres of `parts` equal parts of a sequence of `count`."""
    return [(2 * part + 1) * count // (2 * parts) for part in range(parts)]


def normalize_level(distance: Float32Array | UInt8Array) -> Float32Array:
    """Scale distances from the background [h, w], 0 to 255, to [0, 1].

    The level of 1 is exceeded by a share `_FOREGROUND_SHARE` of the pixels, so that a single
    speck does not set it. A picture of background alone stays 0.
    """
    if distance.dtype == np.uint8:
        integers = np.asarray(distance, np.uint8)
        # A table of the 256 values: a division for each value, not for each pixel.
        scaled = np.minimum(_VALUES / _foreground_level(integers), 1)
        return np.asarray(cv2.LUT(integers, scaled), np.float32)
    return np.asarray(np.minimum(distance / _foreground_level(distance), 1), np.float32)


def _fill(tensor: Float32Array, picture: UInt8Array, spec: FrameSpec) -> None:
    """Fill a tensor [C, H, W] of zeros with one picture [h, w, 3], normalised."""
    if spec.fit == "crop":
        _normalize(_crop(picture, spec), spec, tensor)
        return
    height, width, top, left = _fit(picture, spec)
    inside = tensor[:, top : top + height, left : left + width]
    _normalize(_resize(picture, height, width, spec), spec, inside)


def _normalize(planes: Sequence[UInt8Array], spec: FrameSpec, tensor: Float32Array) -> None:
    """Write a picture, three planes [h, w], to a tensor [C, h, w], normalised as `mean` and
    `std`, or `background`, say."""
    if spec.background == "median":
        tensor[0] = normalize_level(_background_distance(planes))
        return
    for values, channel, table in zip(planes, tensor, _levels(spec), strict=True):
        channel[:] = cv2.LUT(values, table)


@lru_cache(maxsize=16)
def _levels(spec: FrameSpec) -> Float32Array:
    """Return the normalised value [3, 256] of each value of a channel."""
    # (value / 255 - mean) / std, computed as one product and one sum.
    std = np.asarray(spec.std, np.float64)
    factor = (1 / (255 * std)).astype(np.float32)
    shift = (np.asarray(spec.mean) / std).astype(np.float32)
    return _VALUES * factor[:, None] - shift[:, None]


def _crop(picture: UInt8Array, spec: FrameSpec) -> Sequence[UInt8Array]:
    """Resize the shorter side and crop the centre, to three planes.

    Only pixels inside the crop are computed.
    """
    height, width = picture.shape[:2]
    resized_height, resized_width = _resize_shorter(height, width, spec.resize_shorter or 0)
    rows, columns = spec.size
    top, left = _crop_start(resized_height, rows), _crop_start(resized_width, columns)
    upper, lower, row_weights = cropped_bilinear_weights(height, resized_height, top, rows)
    begin, end, column_weights = cropped_bilinear_weights(width, resized_width, left, columns)
    return _resize_axes(picture[upper:lower, begin:end], row_weights, column_weights)


def _background_distance(planes: Sequence[UInt8Array]) -> UInt8Array:
    """Return each pixel's distance [h, w] from the background, the median colour.

    It is the largest of the three channels' distances.
    """
    distances = []
    for plane in planes:
        median = int(_value_at_rank(plane, plane.size // 2))
        distances.append(cv2.LUT(plane, _distances(median)))
    return np.asarray(cv2.max(cv2.max(distances[0], distances[1]), distances[2]), np.uint8)


@lru_cache(maxsize=256)
def _distances(value: int) -> UInt8Array:
    """Return the distance [256] of each value of a channel from `value`."""
    return np.abs(np.arange(256) - value).astype(np.uint8)


def _foreground_level(distance: Float32Array | UInt8Array) -> np.float32:
    """Return the distance from the background that is scaled to 1."""
    rank = distance.size - 1 - int(_FOREGROUND_SHARE * distance.size)
    return np.float32(max(float(_value_at_rank(distance, rank)), _MIN_FOREGROUND))


def _value_at_rank(values: Float32Array | UInt8Array, rank: int) -> Any:
    """Return the value at index `rank` of the sorted values.

    On planes of bytes a partition takes half the time of a histogram.
    """
    return np.partition(values.ravel(), rank)[rank]


def _resize(picture: UInt8Array, height: int, width: int, spec: FrameSpec) -> Sequence[UInt8Array]:
    """Resize a picture [h, w, 3] by the method of the spec, to three planes."""
    if spec.resize == "area":
        planes = cv2.split(resize_area(picture, height, width))
        return [np.asarray(plane, np.uint8) for plane in planes]
    old_height, old_width = picture.shape[:2]
    row_weights = bilinear_weights(old_height, height)
    column_weights = bilinear_weights(old_width, width)
    return _resize_axes(picture, row_weights, column_weights)


def _resize_axes(
    picture: UInt8Array, row_weights: Float32Array, column_weights: Float32Array
) -> Sequence[UInt8Array]:
    """Resize a picture [h, w, 3] by weights [rows, h] and [columns, w], whose rows sum to 1.

    Returns three planes [rows, columns]. The sides of the products are in this order, as another
    one would round one pixel in millions differently.
    """
    height, width, _ = picture.shape
    rows, columns = len(row_weights), len(column_weights)
    pixels = picture.astype(np.float32).reshape(height, -1)
    turned = np.asarray(pixels.T @ row_weights.T, np.float32)  # [w * 3, rows]
    # The transposition of a matrix by OpenCV, and of whole rows by NumPy, is fast.
    turned = np.asarray(cv2.transpose(turned.reshape(width, -1)), np.float32)  # [3 * rows, w]
    turned = turned.reshape(3, rows, width).transpose(1, 0, 2).reshape(-1, width)
    resized = np.rint(turned @ column_weights.T).astype(np.uint8)  # [rows * 3, columns]
    return list(np.ascontiguousarray(resized.reshape(rows, 3, columns).transpose(1, 0, 2)))


def _fit(picture: UInt8Array, spec: FrameSpec) -> tuple[int, int, int, int]:
    """Return height, width, top and left of the fitted picture in the tensor, in pixels."""
    (height, width), (rows, columns) = picture.shape[:2], spec.size
    scale = min(rows / height, columns / width)
    fitted_height, fitted_width = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (rows - fitted_height) // 2, (columns - fitted_width) // 2
    return fitted_height, fitted_width, top, left


def _resize_shorter(height: int, width: int, shorter: int) -> tuple[int, int]:
    """Return the size whose shorter side is `shorter`; the longer rounds down, as published."""
    if height <= width:
        return shorter, shorter * width // height
    return shorter * height // width, shorter


def _crop_start(length: int, cropped: int) -> int:
    """Return the first of the centre `cropped` of `length` pixels, as published."""
    return round((length - cropped) / 2)


def _edges(picture: UInt8Array, spec: FrameSpec) -> tuple[Float64Array, Float64Array]:
    """Return the edges of the tensor's rows [H + 1] and columns [W + 1] in picture pixels."""
    height, width = picture.shape[:2]
    if spec.fit == "pad":
        resized_height, resized_width, top, left = _fit(picture, spec)
    else:
        resized_height, resized_width = _resize_shorter(height, width, spec.resize_shorter or 0)
        top = -_crop_start(resized_height, spec.size[0])
        left = -_crop_start(resized_width, spec.size[1])
    return (
        (np.arange(spec.size[0] + 1) - top) * height / resized_height,
        (np.arange(spec.size[1] + 1) - left) * width / resized_width,
    )
