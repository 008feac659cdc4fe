"""What preprocessing gives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Prepared:
    """One stream of one clip, ready for the encoding.

    `tensor` float32 [T or 1, C, H, W]. `rows` and `columns` name its axes ("y", "x" in pixels of
    the frame, or "frequency_hz", "time_s"); `row_edges` [H + 1] and `column_edges` [W + 1] are
    where each cell begins and ends, outside the frame or the sound where there is padding.
    `canvas` uint8 RGB [h, w, 3] is what a map can be drawn on: the middle frame, or the tensor's
    spectrogram in colours, row for row and column for column.
    """

    tensor: Floats
    rows: str
    columns: str
    row_edges: NDArray[np.float64]
    column_edges: NDArray[np.float64]
    canvas: Bytes
