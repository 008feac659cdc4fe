"""Draw maps over frames, and over spectrograms and other plots with axes."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from model.arrays import Float64Array, UInt8Array
from model.explain.maps import SpatialMap
from model.preprocess.prepared import Prepared

#: Bounds of the longer side of a drawn frame, in pixels; size of a drawn plot.
_MAX_SIDE, _MIN_SIDE = 640, 240
_PLOT_SIZE = (360, 560)  # height, width
#: Margins of a drawn plot, in pixels; left and bottom have the tick labels.
_MARGIN_LEFT, _MARGIN_BOTTOM, _MARGIN_TOP, _MARGIN_RIGHT = 64, 44, 12, 24
#: Titles of axes that are not drawn with their names.
_TITLES = {"time_s": "time in s", "share_of_step": "fraction of the time step"}
#: Opacity of the map at its maximum.
_MAX_OPACITY = 0.75
_WHITE, _BLACK = 255, (32, 32, 32)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def overlay(spatial: SpatialMap, prepared: Prepared) -> bytes:
    """Return a PNG of the map over the frame, or, where the axes are not pixels, over a plot.

    Plots, as of spectrograms, have their first row (the lowest frequency) at the bottom.

    The maximum of the map has the brightest colour; where the map is 0 or less the picture is grey.
    """
    if (spatial.rows, spatial.columns) == ("y", "x"):
        return _encode_png(draw_over_frame(spatial, prepared.canvas()))
    return _encode_png(_draw_over_plot(spatial, prepared))


def draw_over_frame(spatial: SpatialMap, frame: UInt8Array) -> UInt8Array:
    """Draw the map over the frame, RGB [h, w, 3]."""
    height, width = frame.shape[:2]
    longest = max(height, width)
    scale = min(_MAX_SIDE / longest, max(1.0, _MIN_SIDE / longest))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    resized = np.asarray(cv2.resize(frame, size, interpolation=interpolation), np.uint8)
    row_positions = (np.arange(size[1]) + 0.5) / size[1] * height
    column_positions = (np.arange(size[0]) + 0.5) / size[0] * width
    return _blend(resized, _sample_map(spatial, row_positions, column_positions))


def _draw_over_plot(spatial: SpatialMap, prepared: Prepared) -> UInt8Array:
    """Draw the map over the canvas with its axes, RGB [h, w, 3]."""
    height, width = _PLOT_SIZE
    grey = cv2.cvtColor(prepared.canvas(), cv2.COLOR_RGB2GRAY)
    enlarged = cv2.resize(grey, (width, height), interpolation=cv2.INTER_LINEAR)
    picture = np.asarray(cv2.cvtColor(enlarged, cv2.COLOR_GRAY2RGB), np.uint8)
    row_positions = _pixel_positions(prepared.row_edges, height)
    column_positions = _pixel_positions(prepared.column_edges, width)
    plot = _blend(picture, _sample_map(spatial, row_positions, column_positions))[::-1]
    page_height = _MARGIN_TOP + height + _MARGIN_BOTTOM
    page_width = _MARGIN_LEFT + width + _MARGIN_RIGHT
    page = np.full((page_height, page_width, 3), _WHITE, np.uint8)
    page[_MARGIN_TOP : _MARGIN_TOP + height, _MARGIN_LEFT : _MARGIN_LEFT + width] = plot
    if spatial.rows == "frequency_hz":
        _draw_frequency_axis(page, row_positions)
    else:
        _draw_text(page, spatial.rows, (_MARGIN_LEFT - 8, _MARGIN_TOP + 6), "right")
    _draw_column_axis(page, column_positions, _TITLES.get(spatial.columns, spatial.columns))
    return page


def _pixel_positions(edges: Float64Array, pixels: int) -> Float64Array:
    """Return the centre of each of `pixels` pixels, in the unit of the edges."""
    cells = (np.arange(pixels) + 0.5) / pixels * (len(edges) - 1)
    return np.interp(cells, np.arange(len(edges)), edges)


def _sample_map(spatial: SpatialMap, rows: Float64Array, columns: Float64Array) -> Float64Array:
    """Return the map's positive part at these positions, over its maximum: 0 to 1, bilinear between
    the centres of its cells."""
    by_row = _weights(spatial.row_edges, rows)
    by_column = _weights(spatial.column_edges, columns)
    positive = spatial.values.clip(min=0)
    maximum = positive.max()
    return np.asarray(by_row @ positive @ by_column.T / (maximum if maximum > 0 else 1))


def _weights(edges: Float64Array, positions: Float64Array) -> Float64Array:
    """Return the weight [positions, cells] of each cell at each position; 0 outside the map."""
    centres = (edges[1:] + edges[:-1]) / 2
    cells = np.interp(positions, centres, np.arange(len(centres)))
    weights = np.maximum(0, 1 - np.abs(cells[:, None] - np.arange(len(centres))))
    inside = (edges[0] <= positions) & (positions <= edges[-1])
    return np.asarray(weights * inside[:, None])


def _blend(picture: UInt8Array, weight: Float64Array) -> UInt8Array:
    """Blend the colours of the map `weight` [h, w], 0 to 1, over the picture in grey."""
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    levels = np.rint(weight * 255).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[:, :, ::-1]
    opacity = (_MAX_OPACITY * weight)[:, :, None]
    return np.asarray(np.rint(grey * (1 - opacity) + colours * opacity), np.uint8)


def _draw_frequency_axis(page: UInt8Array, frequencies: Float64Array) -> None:
    """Draw ticks on the left; `frequencies` (Hz) of the pixel rows [rows], from the bottom up."""
    bottom = _MARGIN_TOP + len(frequencies)
    for value in (100, 250, 500, 1000, 2000, 4000, 8000, 16_000):
        if frequencies[0] < value < frequencies[-1]:
            row = float(np.interp(value, frequencies, np.arange(len(frequencies))))
            y = bottom - round(row)
            cv2.line(page, (_MARGIN_LEFT - 5, y), (_MARGIN_LEFT - 1, y), _BLACK, 1)
            _draw_text(page, f"{value}", (_MARGIN_LEFT - 8, y), "right")
    _draw_text(page, "Hz", (_MARGIN_LEFT - 8, _MARGIN_TOP + 6), "right")


def _draw_column_axis(page: UInt8Array, positions: Float64Array, title: str) -> None:
    """Draw round ticks at the bottom; `positions` of the pixel columns [columns]."""
    y = page.shape[0] - _MARGIN_BOTTOM
    for value in _round_ticks(float(positions[0]), float(positions[-1])):
        x = _MARGIN_LEFT + round(float(np.interp(value, positions, np.arange(len(positions)))))
        cv2.line(page, (x, y), (x, y + 4), _BLACK, 1)
        _draw_text(page, f"{value:g}", (x, y + 16), "centre")
    _draw_text(page, title, (_MARGIN_LEFT + len(positions) // 2, y + 34), "centre")


def _round_ticks(low: float, high: float) -> Sequence[float]:
    """Return about six round numbers from `low` to `high`."""
    span = max(high - low, 1e-6)
    step = 10.0 ** np.floor(np.log10(span / 6))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 8)
    first = np.ceil(low / step)
    return [round(float(n * step), 6) + 0.0 for n in np.arange(first, np.floor(high / step) + 1)]


def _draw_text(page: UInt8Array, text: str, anchor: tuple[int, int], align: str) -> None:
    (width, height), _ = cv2.getTextSize(text, _FONT, 0.42, 1)
    left = anchor[0] - (width if align == "right" else width // 2)
    origin = (left, anchor[1] + height // 2)
    cv2.putText(page, text, origin, _FONT, 0.42, _BLACK, 1, cv2.LINE_AA)


def _encode_png(picture: UInt8Array) -> bytes:
    _, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return encoded.tobytes()
