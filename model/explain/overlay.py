"""Attention maps drawn over what they are maps of: a frame, or a spectrogram with its axes."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from model.arrays import Float64Array, UInt8Array
from model.explain.maps import SpatialMap
from model.preprocess.prepared import Prepared

#: Longest side of a drawn frame, in pixels, and the size of a drawn spectrogram.
_LONGEST, _SHORTEST = 640, 240
_PLOT = (360, 560)  # height, width
#: Space left and below a spectrogram for its numbers, above and right of it, in pixels.
_LEFT, _BELOW, _ABOVE, _RIGHT = 64, 44, 12, 24
#: How much of the map's colour lies over its greatest value.
_STRENGTH = 0.75
_WHITE, _BLACK = 255, (32, 32, 32)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def overlay(spatial: SpatialMap, prepared: Prepared) -> bytes:
    """A PNG of the map over the frame, or over the spectrogram (low frequencies at the bottom).

    The map is scaled so that its greatest value is brightest; where it is 0 the picture is grey.
    """
    if spatial.columns == "time_s":
        return _png(_plot(spatial, prepared))
    return _png(_over_frame(spatial, prepared.canvas))


def _over_frame(spatial: SpatialMap, frame: UInt8Array) -> UInt8Array:
    """Map over frame, RGB [h, w, 3]."""
    height, width = frame.shape[:2]
    longest = max(height, width)
    scale = min(_LONGEST / longest, max(1.0, _SHORTEST / longest))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    shown = np.asarray(cv2.resize(frame, size, interpolation=how), np.uint8)
    at_rows = (np.arange(size[1]) + 0.5) / size[1] * height
    at_columns = (np.arange(size[0]) + 0.5) / size[0] * width
    return _blended(shown, _sampled(spatial, at_rows, at_columns))


def _plot(spatial: SpatialMap, prepared: Prepared) -> UInt8Array:
    """Map over spectrogram with its axes, RGB."""
    height, width = _PLOT
    grey = cv2.cvtColor(prepared.canvas, cv2.COLOR_RGB2GRAY)
    tall = cv2.resize(grey, (width, height), interpolation=cv2.INTER_LINEAR)
    picture = np.asarray(cv2.cvtColor(tall, cv2.COLOR_GRAY2RGB), np.uint8)
    at_rows = _stretched(prepared.row_edges, height)
    at_columns = _stretched(prepared.column_edges, width)
    blended = _blended(picture, _sampled(spatial, at_rows, at_columns))[::-1]
    page = np.full((_ABOVE + height + _BELOW, _LEFT + width + _RIGHT, 3), _WHITE, np.uint8)
    page[_ABOVE : _ABOVE + height, _LEFT : _LEFT + width] = blended
    _number_rows(page, at_rows)
    _number_columns(page, at_columns)
    return page


def _stretched(edges: Float64Array, pixels: int) -> Float64Array:
    """Where the centre of each of `pixels` lies, in the unit of the edges."""
    cells = (np.arange(pixels) + 0.5) / pixels * (len(edges) - 1)
    return np.interp(cells, np.arange(len(edges)), edges)


def _sampled(spatial: SpatialMap, rows: Float64Array, columns: Float64Array) -> Float64Array:
    """The map at these places, bilinear between the middles of its cells, 0 to 1."""
    by_row = _weights(spatial.row_edges, rows)
    by_column = _weights(spatial.column_edges, columns)
    greatest = spatial.values.max()
    return np.asarray(by_row @ spatial.values @ by_column.T / (greatest if greatest > 0 else 1))


def _weights(edges: Float64Array, places: Float64Array) -> Float64Array:
    """Weight [places, cells] of each cell at each place."""
    middles = (edges[1:] + edges[:-1]) / 2
    at = np.interp(places, middles, np.arange(len(middles)))
    return np.asarray(np.maximum(0, 1 - np.abs(at[:, None] - np.arange(len(middles)))))


def _blended(picture: UInt8Array, share: Float64Array) -> UInt8Array:
    """The picture in grey under the map's colours, as far as each place was looked at."""
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    levels = np.rint(share * 255).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[:, :, ::-1]
    opacity = (_STRENGTH * share)[:, :, None]
    return np.asarray(np.rint(grey * (1 - opacity) + colours * opacity), np.uint8)


def _number_rows(page: UInt8Array, at: Float64Array) -> None:
    """Frequencies on the left; the lowest is at the bottom."""
    bottom = _ABOVE + len(at)
    for value in (100, 250, 500, 1000, 2000, 4000, 8000, 16_000):
        if at[0] < value < at[-1]:
            y = bottom - round(float(np.interp(value, at, np.arange(len(at)))))
            cv2.line(page, (_LEFT - 5, y), (_LEFT - 1, y), _BLACK, 1)
            _write(page, f"{value}", (_LEFT - 8, y), "right")
    _write(page, "Hz", (_LEFT - 8, _ABOVE + 6), "right")


def _number_columns(page: UInt8Array, at: Float64Array) -> None:
    """Seconds below."""
    y = page.shape[0] - _BELOW
    for value in _round_steps(float(at[0]), float(at[-1])):
        x = _LEFT + round(float(np.interp(value, at, np.arange(len(at)))))
        cv2.line(page, (x, y), (x, y + 4), _BLACK, 1)
        _write(page, f"{value:g}", (x, y + 16), "centre")
    _write(page, "time in s", (_LEFT + len(at) // 2, y + 34), "centre")


def _round_steps(low: float, high: float) -> Sequence[float]:
    """About six round numbers between two."""
    span = max(high - low, 1e-6)
    step = 10.0 ** np.floor(np.log10(span / 6))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 8)
    first = np.ceil(low / step)
    return [round(float(n * step), 6) + 0.0 for n in np.arange(first, np.floor(high / step) + 1)]


def _write(page: UInt8Array, text: str, at: tuple[int, int], align: str) -> None:
    (width, height), _ = cv2.getTextSize(text, _FONT, 0.42, 1)
    left = at[0] - (width if align == "right" else width // 2)
    origin = (left, at[1] + height // 2)
    cv2.putText(page, text, origin, _FONT, 0.42, _BLACK, 1, cv2.LINE_AA)


def _png(picture: UInt8Array) -> bytes:
    _, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return encoded.tobytes()
