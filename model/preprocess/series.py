"""Convert a series of values over time to a population code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from model.preprocess.prepared import Prepared
from model.preprocess.specs import SeriesSpec

if TYPE_CHECKING:
    from model.media.series import Series


def prepare_series(series: Series, spec: SeriesSpec) -> Prepared:
    """Return the population code, tensor [1, 1, H, W], as `spec` describes it.

    Row edges are levels: of the values, or shares of the largest with `level` "peak". Column edges
    are in seconds from the first value of the series.
    """
    rows, columns = spec.size
    time_s = series.time_s - series.time_s[0]
    values = series.values.astype(np.float64)
    peak = float(np.abs(values).max())
    begin = 0.0
    if spec.onset is not None and peak > 0:
        begin = float(time_s[np.argmax(np.abs(values) > spec.onset * peak)])
    if spec.level == "peak" and peak > 0:
        values = values / peak
    duration_s = spec.duration_s or max(float(time_s[-1]) - begin, 1e-6)
    column_edges = begin + np.linspace(0, duration_s, columns + 1)
    middles = (column_edges[1:] + column_edges[:-1]) / 2
    value = np.clip(np.interp(middles, time_s, values), spec.low, spec.high)  # [W]
    row_edges = np.linspace(spec.low, spec.high, rows + 1)
    levels = (row_edges[1:] + row_edges[:-1]) / 2
    distance = (value[None] - levels[:, None]) * (rows / (spec.high - spec.low) / spec.width)
    activity = np.exp(-(distance**2) / 2)  # [H, W]
    activity[:, middles > time_s[-1]] = 0
    tensor = activity.astype(np.float32)
    return Prepared(
        tensor[None, None],
        rows="value",
        columns="time_s",
        row_edges=row_edges,
        column_edges=column_edges,
        canvas=lambda: np.repeat((255 * tensor).astype(np.uint8)[:, :, None], 3, axis=2),
    )
