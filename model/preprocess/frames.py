"""Pictures to normalised frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from model.preprocess.prepared import Bytes, Floats, Prepared
from model.preprocess.resampling import bilinear, bilinear_part
from model.preprocess.specs import FrameSpec

if TYPE_CHECKING:
    from model.media.types import Pictures

#: Share of a picture that sets the level of its ink (the smallest digits cover about as much),
#: and the faintest ink, of 255, that is brought up to full strength.
_INK = 0.003
_FAINTEST = 12.0


def prepare_frames(pictures: Pictures, spec: FrameSpec, steps: int) -> Prepared:
    """The pictures as a normalised tensor [T or 1, C, H, W], as `spec` says.

    "spread" takes the pictures at the centres of `steps` equal parts of the sequence; where
    that is one picture only, T is 1. Edges are in pixels of the middle picture taken.
    """
    taken = _taken(len(pictures.frames), spec, steps)
    tensors = {index: _frame(pictures.frames[index], spec) for index in set(taken)}
    order = taken if len(tensors) > 1 else taken[:1]
    middle = pictures.frames[taken[len(taken) // 2]]
    rows, columns = _edges(middle, spec)
    return Prepared(np.stack([tensors[index] for index in order]), "y", "x", rows, columns, middle)


def segment_centres(count: int, parts: int) -> list[int]:
    """Which of `count` pictures are at the centres of `parts` equal parts of their sequence."""
    return [(2 * part + 1) * count // (2 * parts) for part in range(parts)]


def _taken(count: int, spec: FrameSpec, steps: int) -> list[int]:
    """Indices of the pictures that are taken, one a step, or one."""
    return segment_centres(count, 1 if spec.frames == "middle" else steps)


def _frame(picture: Bytes, spec: FrameSpec) -> Floats:
    """One picture [h, w, 3] as [C, H, W], normalised."""
    values = _cropped(picture, spec) if spec.fit == "crop" else _padded(picture, spec)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def _normalised(values: Bytes | Floats, spec: FrameSpec) -> Floats:
    """(value / 255 - mean) / std as one product and one sum."""
    std = np.asarray(spec.std, np.float64)
    factor = (1 / (255 * std)).astype(np.float32)
    shift = (np.asarray(spec.mean) / std).astype(np.float32)
    return np.asarray(values * factor - shift, np.float32)


def _cropped(picture: Bytes, spec: FrameSpec) -> Floats:
    """Shorter side resized, centre cut out: only what is kept is ever computed."""
    height, width = picture.shape[:2]
    tall, wide = _shorter_to(height, width, spec.resize_shorter or 0)
    (top, rows), (left, columns) = _centre(tall, spec.size[0]), _centre(wide, spec.size[1])
    upper, lower, by_row = bilinear_part(height, tall, top, rows)
    begin, end, by_column = bilinear_part(width, wide, left, columns)
    part = picture[upper:lower, begin:end].astype(np.float32)
    # Each product mixes one axis: [rows, h] over the rows, then [columns, w] over the columns.
    values = np.einsum("rh,hwc->rwc", by_row, part, optimize=True)
    values = np.einsum("kw,rwc->rkc", by_column, values, optimize=True)
    return _normalised(np.rint(values), spec)


def _padded(picture: Bytes, spec: FrameSpec) -> Floats:
    """The whole picture, fitted and centred, 0 around it."""
    tall, wide, top, left = _fitted(picture, spec)
    small = _resized(picture, tall, wide, spec)
    values = np.zeros((*spec.size, spec.channels), np.float32)
    if spec.ground == "median":
        shown = normalize_level(_above_paper(small))[:, :, None]
    else:
        shown = _normalised(small, spec)
    values[top : top + tall, left : left + wide] = shown
    return values


def _above_paper(picture: Bytes | Floats) -> Floats:
    """How far each pixel [h, w] of a picture is from the paper, which is the median colour."""
    flat = picture.reshape(-1, 3)
    middle = len(flat) // 2
    paper = np.partition(flat, middle, axis=0)[middle].astype(np.float32)
    return np.asarray(np.abs(picture - paper).max(axis=2), np.float32)


def normalize_level(distance: Floats) -> Floats:
    """Distances from the paper [h, w], of 255, over that of the strongest ink, at most 1.

    The strongest _INK of the pixels set the level, so that a single speck does not. A picture of
    nothing but paper stays 0.
    """
    rank = distance.size - 1 - int(_INK * distance.size)
    level = max(float(np.partition(distance.ravel(), rank)[rank]), _FAINTEST)
    return np.asarray(np.minimum(distance / np.float32(level), 1), np.float32)


def _resized(picture: Bytes, tall: int, wide: int, spec: FrameSpec) -> Bytes | Floats:
    height, width = picture.shape[:2]
    if spec.resize == "area":
        shrinks = tall <= height and wide <= width
        how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        return np.asarray(cv2.resize(picture, (wide, tall), interpolation=how), np.uint8)
    part = picture.astype(np.float32)
    values = np.einsum("rh,hwc->rwc", bilinear(height, tall), part, optimize=True)
    values = np.einsum("kw,rwc->rkc", bilinear(width, wide), values, optimize=True)
    return np.asarray(np.rint(values), np.float32)


def _fitted(picture: Bytes, spec: FrameSpec) -> tuple[int, int, int, int]:
    """Height, width, top and left of the fitted picture in the tensor, in pixels."""
    (height, width), (rows, columns) = picture.shape[:2], spec.size
    scale = min(rows / height, columns / width)
    tall, wide = max(1, round(height * scale)), max(1, round(width * scale))
    return tall, wide, (rows - tall) // 2, (columns - wide) // 2


def _shorter_to(height: int, width: int, shorter: int) -> tuple[int, int]:
    """Size after the shorter side became `shorter`; the longer is rounded down, as published."""
    if height <= width:
        return shorter, shorter * width // height
    return shorter * height // width, shorter


def _centre(length: int, kept: int) -> tuple[int, int]:
    """First pixel and number of the centre `kept` of `length` pixels, as published."""
    return round((length - kept) / 2), kept


def _edges(picture: Bytes, spec: FrameSpec) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Edges of the tensor's rows and columns in pixels of the picture."""
    height, width = picture.shape[:2]
    if spec.fit == "pad":
        tall, wide, top, left = _fitted(picture, spec)
        return (
            (np.arange(spec.size[0] + 1) - top) * height / tall,
            (np.arange(spec.size[1] + 1) - left) * width / wide,
        )
    tall, wide = _shorter_to(height, width, spec.resize_shorter or 0)
    top, left = _centre(tall, spec.size[0])[0], _centre(wide, spec.size[1])[0]
    return (
        (np.arange(spec.size[0] + 1) + top) * height / tall,
        (np.arange(spec.size[1] + 1) + left) * width / wide,
    )
