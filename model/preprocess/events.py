"""Convert events to frames of counts, one for each time step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np

from model.arrays import BoolArray, Float32Array, Float64Array, UInt8Array
from model.preprocess.prepared import Prepared
from model.preprocess.specs import ChannelEventSpec, EventFrameSpec

if TYPE_CHECKING:
    from model.media.events.types import CameraEvents, ChannelEvents, Integers


def prepare_camera_events(events: CameraEvents, spec: EventFrameSpec, steps: int) -> Prepared:
    """Return counts, tensor [T, 2, H, W], as `spec` describes it. There must be an event.

    Edges are in pixels of the sensor; the canvas shows all events, ON bright and OFF dark.
    """
    height, width = _sensor(events, spec)
    x, y, time_us, is_on = events.x, events.y, events.time_us, events.is_on
    if spec.hot_pixels is not None:
        normal = ~_is_hot(y * width + x, height * width, spec.hot_pixels)
        x, y, time_us, is_on = x[normal], y[normal], time_us[normal], is_on[normal]
    rows, columns = spec.size
    top, left, high, wide = 0, 0, height, width  # what is kept of the sensor
    if spec.window is not None and (height > spec.window[0] or width > spec.window[1]):
        high, wide = spec.window
        top, left = densest_window(x, y, high, wide)
    inside = (y >= top) & (y < top + high) & (x >= left) & (x < left + wide)
    cells = ((y - top) * rows // high) * columns + (x - left) * columns // wide
    cells += is_on * (rows * columns)
    parts = divide_time(time_us, steps, spec.share)
    counts = _count([cells[part][inside[part]] for part in parts], (2, rows, columns))
    return Prepared(
        _normalize(counts, spec.mean, spec.std),
        rows="y",
        columns="x",
        row_edges=np.linspace(top, top + high, rows + 1),
        column_edges=np.linspace(left, left + wide, columns + 1),
        canvas=lambda: _picture(x, y, is_on, (height, width)),
    )


def prepare_channel_events(events: ChannelEvents, spec: ChannelEventSpec, steps: int) -> Prepared:
    """Return counts, tensor [T, 1, H, W], as `spec` describes it.

    There must be an event, and none of a channel above `spec.bands`. Row edges are the first
    channels of the grid's rows, column edges the channels within a row, or, with `columns`, shares
    of a time step.
    """
    if spec.columns is None:
        parts = divide_time(events.time_us, steps, spec.share)
        counts = _count([events.channel[part] for part in parts], spec.grid)
    else:
        counts = _count_by_time(events, spec, steps)
    rows, columns = spec.size
    resized = [
        cv2.resize(frame, (columns, rows), interpolation=cv2.INTER_LINEAR) for frame in counts
    ]
    tensor = np.stack(resized).astype(np.float32)[:, None]
    return Prepared(
        _normalize(tensor, spec.mean, spec.std),
        rows="channel",
        columns="channel_in_row" if spec.columns is None else "share_of_step",
        row_edges=np.linspace(0, spec.bands, rows + 1),
        column_edges=np.linspace(0, 1 if spec.columns else spec.grid[1], columns + 1),
        canvas=lambda: _grey(tensor.sum((0, 1))),
    )


def divide_time(time_us: Integers, steps: int, share: float | None = None) -> list[slice]:
    """Return which events each of T time steps has; times are in order.

    Without `share`, steps are equal bins of whole microseconds, at least one; events after the
    last full bin belong to none. Else a step is the share `share` of the time from the first to
    the last event: the first step begins with the first event, the last ends with the last, and
    the others lie evenly between; a single one lies in the middle.
    """
    if not len(time_us):
        return [slice(0, 0)] * steps
    elapsed = time_us - time_us[0]
    if share is None:
        length = max(1, int(elapsed[-1]) // steps)
        bounds = np.searchsorted(elapsed, np.arange(steps + 1) * length).tolist()
        return [slice(first, last) for first, last in pairwise(bounds)]
    starts, duration = _windows(elapsed, steps, share)
    firsts = np.searchsorted(elapsed, np.ceil(starts)).tolist()
    lasts = np.searchsorted(elapsed, np.floor(starts + duration), side="right").tolist()
    return [slice(first, last) for first, last in zip(firsts, lasts, strict=True)]


def _windows(elapsed: Integers, steps: int, share: float) -> tuple[Float64Array, float]:
    """Return when each window begins [T], and how long it is, in the unit of `elapsed`."""
    position = np.linspace(0, 1, steps) if steps > 1 else np.array([0.5])
    duration = float(elapsed[-1])
    return position * (duration * (1 - share)), duration * share


def _count_by_time(events: ChannelEvents, spec: ChannelEventSpec, steps: int) -> Float32Array:
    """Count the events of each window by channel and part of its time, [T, bands, columns]."""
    columns, share = spec.columns, spec.share
    assert columns is not None
    assert share is not None
    elapsed = events.time_us - events.time_us[0]
    starts, length = _windows(elapsed, steps, share)
    cells = []
    for part, start in zip(divide_time(events.time_us, steps, share), starts, strict=True):
        column = ((elapsed[part] - start) * (columns / max(length, 1.0))).astype(np.int64)
        cells.append(events.channel[part] * columns + np.clip(column, 0, columns - 1))
    return _count(cells, (spec.bands, columns))


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


def _is_hot(pixels: Integers, count: int, factor: float) -> BoolArray:
    """Return for each event whether its pixel has more than `factor` times the mean's events."""
    by_pixel = np.bincount(pixels, minlength=count)
    mean = float(by_pixel[by_pixel > 0].mean()) if len(pixels) else 0.0
    return np.asarray((by_pixel > factor * mean)[pixels])


def _count(cells: Sequence[Integers], shape: tuple[int, ...]) -> Float32Array:
    """Count the events in each cell of a grid of this shape, [T, *shape], from the cells of the
    events of each time step."""
    size = int(np.prod(shape))
    counts = np.stack([np.bincount(step, minlength=size) for step in cells])
    return counts.reshape(len(cells), *shape).astype(np.float32)


def _normalize(counts: Float32Array, mean: float, std: float) -> Float32Array:
    return np.asarray((counts - np.float32(mean)) / np.float32(std), np.float32)


def _picture(x: Integers, y: Integers, is_on: BoolArray, sensor: tuple[int, int]) -> UInt8Array:
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
