"""The output of preprocessing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from model.arrays import Float32Array, Float64Array, UInt8Array


@dataclass(frozen=True)
class Prepared:
    """One stream of one clip, ready for the encoding.

    - `tensor`: float32 [T or 1, C, H, W].
    - `rows`, `columns`: names of the axes: "y" and "x" (pixels of the frame), "frequency_hz" and
      "time_s", or others.
    - `row_edges` [H + 1], `column_edges` [W + 1]: where each cell begins and ends, in the axis's
      unit. Cells in the padding lie outside the frame or the sound.
    - `canvas`: returns the background of a map, uint8 RGB [h, w, 3]: the middle frame,
      or, where the axes are not pixels, one pixel for each cell of the tensor. It is drawn when it
      is called, as few requests ask for a map.
    """

    tensor: Float32Array
    rows: str
    columns: str
    row_edges: Float64Array
    column_edges: Float64Array
    canvas: Callable[[], UInt8Array]
