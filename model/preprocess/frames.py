"""Convert pictures to normalised frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from model.arrays import Float32Array, Float64Array, UInt8Array
from model.preprocess.bilinear import bilinear_weights, cropped_bilinear_weights
from model.preprocess.prepared import Prepared
from model.preprocess.specs import FrameSpec

if TYPE_CHECKING:
    from model.media.types import Pictures

#: Share of the pixels that lie above the level of the strongest foreground. The smallest digits
#: cover about as much.
_FOREGROUND_SHARE = 0.003
#: Lowest level (of 255) that is scaled up to 1.
_MIN_FOREGROUND = 12.0


def prepare_frames(pictures: Pictures, spec: FrameSpec, steps: int) -> Prepared:
    """Return the pictures as a normalised tensor [T or 1, C, H, W], as `spec` describes it.

    `frames` "spread" takes the pictures at the centres of `steps` equal parts of the sequence.
    T is 1 where all of them are the same picture. Edges are in pixels of the middle picture.
    """
    indices = segment_centres(len(pictures.frames), 1 if spec.frames == "middle" else steps)
    tensors = {index: _prepare_frame(pictures.frames[index], spec) for index in set(indices)}
    order = indices if len(tensors) > 1 else indices[:1]
    middle = pictures.frames[indices[len(indices) // 2]]
    rows, columns = _edges(middle, spec)
    return Prepared(
        np.stack([tensors[index] for index in order]), "y", "x", rows, columns, lambda: middle
    )


def stretch_picture(picture: UInt8Array, spec: FrameSpec) -> Float32Array:
    """Return a picture [h, w, 3], resized to the spec's size whatever its aspect, and normalised,
    as a tensor [1, C, H, W].

    For training on random crops of natural pictures: `background` must be "none".
    """
    rows, columns = spec.size
    row_weights = bilinear_weights(picture.shape[0], rows)
    column_weights = bilinear_weights(picture.shape[1], columns)
    resized = np.rint(_resize_axes(picture.astype(np.float32), row_weights, column_weights))
    return np.ascontiguousarray(_normalize(resized, spec).transpose(2, 0, 1))[None]


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
        scaled = np.minimum(np.arange(256, dtype=np.float32) / _foreground_level(integers), 1)
        return np.asarray(cv2.LUT(integers, scaled), np.float32)
    rank = distance.size - 1 - int(_FOREGROUND_SHARE * distance.size)
    level = max(float(np.partition(distance.ravel(), rank)[rank]), _MIN_FOREGROUND)
    return np.asarray(np.minimum(distance / np.float32(level), 1), np.float32)


def _prepare_frame(picture: UInt8Array, spec: FrameSpec) -> Float32Array:
    """Return one picture [h, w, 3] as a normalised tensor [C, H, W]."""
    values = _crop(picture, spec) if spec.fit == "crop" else _pad(picture, spec)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def _normalize(values: UInt8Array | Float32Array, spec: FrameSpec) -> Float32Array:
    """Return a picture [h, w, 3] of integers, 0 to 255, as `mean` and `std`, or `background`,
    normalise it [h, w, C]."""
    if spec.background == "median":
        return normalize_level(_background_distance(values))[:, :, None]
    # (value / 255 - mean) / std, computed as one product and one sum.
    std = np.asarray(spec.std, np.float64)
    factor = (1 / (255 * std)).astype(np.float32)
    shift = (np.asarray(spec.mean) / std).astype(np.float32)
    return np.asarray(values * factor - shift, np.float32)


def _crop(picture: UInt8Array, spec: FrameSpec) -> Float32Array:
    """Resize the shorter side and crop the centre. Only pixels inside the crop are computed."""
    height, width = picture.shape[:2]
    resized_height, resized_width = _resize_shorter(height, width, spec.resize_shorter or 0)
    rows, columns = spec.size
    top, left = _crop_start(resized_height, rows), _crop_start(resized_width, columns)
    upper, lower, row_weights = cropped_bilinear_weights(height, resized_height, top, rows)
    begin, end, column_weights = cropped_bilinear_weights(width, resized_width, left, columns)
    region = picture[upper:lower, begin:end].astype(np.float32)
    return _normalize(np.rint(_resize_axes(region, row_weights, column_weights)), spec)


def _pad(picture: UInt8Array, spec: FrameSpec) -> Float32Array:
    """Fit the whole picture into the tensor [H, W, C], centred, with 0 around it."""
    height, width, top, left = _fit(picture, spec)
    resized = _resize(picture, height, width, spec)
    values = _normalize(resized, spec)
    padded = np.zeros((*spec.size, spec.channels), np.float32)
    padded[top : top + height, left : left + width] = values
    return padded


def _background_distance(picture: UInt8Array | Float32Array) -> UInt8Array:
    """Return each pixel's distance [h, w] from the background, the median colour.

    It is the largest of the three channels' distances. `picture` [h, w, 3] holds integers, 0 to
    255, whatever its type.
    """
    distances = []
    pixels = picture.astype(np.uint8, copy=False)
    for channel in (np.asarray(plane, np.uint8) for plane in cv2.split(pixels)):
        median = _value_at_rank(channel, channel.size // 2)
        distances.append(cv2.LUT(channel, np.abs(np.arange(256) - median).astype(np.uint8)))
    return np.asarray(cv2.max(cv2.max(distances[0], distances[1]), distances[2]), np.uint8)


def _foreground_level(distance: UInt8Array) -> np.float32:
    """Return the distance from the background that is scaled to 1."""
    rank = distance.size - 1 - int(_FOREGROUND_SHARE * distance.size)
    return np.float32(max(float(_value_at_rank(distance, rank)), _MIN_FOREGROUND))


def _value_at_rank(values: UInt8Array, rank: int) -> int:
    """Return the value at index `rank` of the sorted values, by their histogram."""
    counts = np.bincount(values.ravel(), minlength=256)
    return int(np.searchsorted(np.cumsum(counts), rank, side="right"))


def _resize(
    picture: UInt8Array, height: int, width: int, spec: FrameSpec
) -> UInt8Array | Float32Array:
    """Resize a picture [h, w, 3] by the method of the spec. Values are integers, 0 to 255."""
    old_height, old_width = picture.shape[:2]
    if spec.resize == "area":
        shrinks = height <= old_height and width <= old_width
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        resized = cv2.resize(picture, (width, height), interpolation=interpolation)
        return np.asarray(resized, np.uint8)
    row_weights = bilinear_weights(old_height, height)
    column_weights = bilinear_weights(old_width, width)
    return np.rint(_resize_axes(picture.astype(np.float32), row_weights, column_weights))


def _resize_axes(
    picture: Float32Array, row_weights: Float32Array, column_weights: Float32Array
) -> Float32Array:
    """Resize a picture [h, w, 3] by weights [rows, h] and [columns, w]."""
    values = np.einsum("rh,hwc->rwc", row_weights, picture, optimize=True)
    return np.asarray(np.einsum("kw,rwc->rkc", column_weights, values, optimize=True), np.float32)


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
