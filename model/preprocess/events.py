"""Convert events to frames of counts, one for each time step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from model.arrays import Float32Array, UInt8Array
from model.preprocess.prepared import Prepared
from model.preprocess.specs import ChannelEventSpec, EventFrameSpec

if TYPE_CHECKING:
    from model.media.events.types import CameraEvents, ChannelEvents, Integers

Bools = NDArray[np.bool_]


def prepare_camera_events(events: CameraEvents, spec: EventFrameSpec, steps: int) -> Prepared:
    """Return counts, tensor [T, 2, H, W], as `spec` describes it. There must be an event.

    Edges are in pixels of the sensor; the canvas shows all events, ON bright and OFF dark.
    """
    height, width = _sensor(events, spec)
    x, y, time_us, is_on = events.x, events.y, events.time_us, events.is_on
    if spec.hot_pixels is not None:
        kept = ~_is_hot(y * width + x, height * width, spec.hot_pixels)
        x, y, time_us, is_on = x[kept], y[kept], time_us[kept], is_on[kept]
    rows, columns = spec.size
    bins = time_bins(time_us, steps)
    top, left, high, wide = 0, 0, height, width  # what is kept of the sensor
    if spec.window is not None and (height > spec.window[0] or width > spec.window[1]):
        high, wide = spec.window
        top, left = densest_window(x, y, high, wide)
    inside = (y >= top) & (y < top + high) & (x >= left) & (x < left + wide)
    cells = ((y - top) * rows // high) * columns + (x - left) * columns // wide
    counts = _count((bins * 2 + is_on) * (rows * columns) + cells, inside & (bins >= 0),
                    (steps, 2, rows, columns))  # fmt: skip
    return Prepared(
        _normalize(counts, spec.mean, spec.std),
        rows="y",
        columns="x",
        row_edges=np.linspace(top, top + high, rows + 1),
        column_edges=np.linspace(left, left + wide, columns + 1),
        canvas=_picture(x, y, is_on, (height, width)),
    )


def prepare_channel_events(events: ChannelEvents, spec: ChannelEventSpec, steps: int) -> Prepared:
    """Return counts, tensor [T, 1, H, W], as `spec` describes it.

    There must be an event, and none of a channel above `spec.bands`. Row edges are the first
    channels of the grid's rows, column edges the channels within a row.
    """
    bins = time_bins(events.time_us, steps)
    counts = _count(bins * spec.bands + events.channel, bins >= 0, (steps, *spec.grid))
    rows, columns = spec.size
    resized = [
        cv2.resize(frame, (columns, rows), interpolation=cv2.INTER_LINEAR) for frame in counts
    ]
    tensor = np.stack(resized).astype(np.float32)[:, None]
    return Prepared(
        _normalize(tensor, spec.mean, spec.std),
        rows="channel",
        columns="channel_in_row",
        row_edges=np.linspace(0, spec.bands, rows + 1),
        column_edges=np.linspace(0, spec.grid[1], columns + 1),
        canvas=_grey(tensor.sum((0, 1))),
    )


def time_bins(time_us: Integers, steps: int) -> Integers:
    """Return the bin 0 to T - 1 of each event, in order of time; -1 after the last full bin.

    A bin is at least a microsecond long.
    """
    if not len(time_us):
        return np.empty(0, np.int64)
    length = max(1, int(time_us[-1] - time_us[0]) // steps)
    bins = (time_us - time_us[0]) // length
    return np.where(bins < steps, bins, -1)


def densest_window(x: Integers, y: Integers, height: int, width: int) -> tuple[int, int]:
    """Return top and left of the window that contains most events: the middle one of several.

    It may reach beyond the last event. Without events it begins at the corner.
    """
    if not len(x):
        return 0, 0
    rows, columns = int(y.max()) + height, int(x.max()) + width
    counts = np.bincount(y * columns + x, minlength=rows * columns).reshape(rows, columns)
    sums = cv2.integral(counts.astype(np.float64))  # [rows + 1, columns + 1]
    inside = (
        sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width]
        + sums[:-height, :-width]
    )  # fmt: skip
    equal = np.argwhere(inside == inside.max())
    middle = np.argmin(((equal - equal.mean(0)) ** 2).sum(1))
    return int(equal[middle][0]), int(equal[middle][1])


def _sensor(events: CameraEvents, spec: EventFrameSpec) -> tuple[int, int]:
    """Return the height and width of the sensor."""
    if events.sensor is not None:
        return events.sensor
    height, width = spec.sensor or (1, 1)
    return max(height, int(events.y.max(initial=0)) + 1), max(
        width, int(events.x.max(initial=0)) + 1
    )


def _is_hot(pixels: Integers, count: int, factor: float) -> Bools:
    """Return for each event whether its pixel has more than `factor` times the mean's events."""
    by_pixel = np.bincount(pixels, minlength=count)
    mean = float(by_pixel[by_pixel > 0].mean()) if len(pixels) else 0.0
    return np.asarray((by_pixel > factor * mean)[pixels])


def _count(indices: Integers, kept: Bools, shape: tuple[int, ...]) -> Float32Array:
    """Count how often each index into an array of this shape occurs."""
    counts = np.bincount(indices[kept], minlength=int(np.prod(shape)))
    return counts.reshape(shape).astype(np.float32)


def _normalize(counts: Float32Array, mean: float, std: float) -> Float32Array:
    return np.asarray((counts - np.float32(mean)) / np.float32(std), np.float32)


def _picture(x: Integers, y: Integers, is_on: Bools, sensor: tuple[int, int]) -> UInt8Array:
    """Draw all events over grey, RGB [h, w, 3]: ON brighter, OFF darker."""
    signed = np.bincount(
        y * sensor[1] + x, np.where(is_on, 1.0, -1.0), sensor[0] * sensor[1]
    ).reshape(sensor)
    scale = float(np.percentile(np.abs(signed[signed != 0]), 95)) if signed.any() else 1.0
    grey = np.clip(128 + 127 * signed / scale, 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _grey(values: Float32Array) -> UInt8Array:
    """Return values [h, w] from 0 on as grey, RGB [h, w, 3]."""
    grey = (values * (255 / max(float(values.max()), 1e-9))).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)
