"""How frames are displayed: sample aspect ratio and display matrix."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import numpy as np
from av.stream import Stream
from av.video.frame import VideoFrame

from model.arrays import UInt8Array
from model.media.pyav import display_matrix, to_fraction

#: Sample aspect ratios beyond this are damage, not a format.
_MAX_ASPECT = 4.0
#: Containers that store the aspect ratio, and are right if the frames disagree.
_WITH_ASPECT = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "asf")

#: a, b, c, d: pixel (x, y) is displayed at (a x + c y, b x + d y).
Matrix = tuple[int, int, int, int]


class SampleAspectRatios:
    """Sample aspect ratio (width of a pixel over its height) by packet.

    PyAV's frames do not have it. A decoder has it after its first frame.
    """

    def __init__(self, stream: Stream, *, changes: bool) -> None:
        """`changes`: whether it may change. The decoder must then have a single thread."""
        self._context: Any = stream.codec_context
        self._of_stream = to_fraction(getattr(stream, "sample_aspect_ratio", None))
        self._is_in_container = (
            bool(self._of_stream) and stream.container.format.name in _WITH_ASPECT
        )
        self._changes = changes and not self._is_in_container
        self._history: list[tuple[int, Any]] = []

    def record(self, index: int) -> None:
        """Record the decoder's ratio after it decoded the packet at `index`."""
        if self._changes:
            self._history.append((index, self._context.sample_aspect_ratio))

    def at(self, index: int) -> float:
        """Return the ratio of the frame of the packet at `index`, after it was decoded."""
        of_frame = self._context.sample_aspect_ratio
        if self._history:
            position = bisect_right(self._history, index, key=lambda entry: entry[0])
            of_frame = self._history[max(0, position - 1)][1]
        ratio = None if self._is_in_container else to_fraction(of_frame)
        aspect = float(ratio or self._of_stream or 1)
        return aspect if 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT else 1.0


class DisplayMatrices:
    """Display matrices by time.

    A matrix in the video stream comes with a key frame and applies to the following frames.
    """

    def __init__(self) -> None:
        self._of_key_frames: list[tuple[float, Matrix | None]] = []

    def record(self, time: float | None, key_frame: VideoFrame) -> None:
        """Record a key frame's matrix. Key frames are passed in order of time."""
        if time is not None:
            self._of_key_frames.append((time, display_matrix(key_frame)))

    def at(self, frame: VideoFrame, time: float) -> Matrix | None:
        """Return the matrix of the frame that is shown at `time`; None if it has none."""
        position = bisect_right(self._of_key_frames, time, key=lambda entry: entry[0])
        of_key_frame = self._of_key_frames[position - 1][1] if position else None
        return display_matrix(frame) or of_key_frame


def apply_matrix(picture: UInt8Array, matrix: Matrix | None) -> UInt8Array:
    """Turn and mirror a picture [h, w, 3] by its display matrix.

    Only quarter turns and mirrors are applied; other angles are rounded to them.
    """
    if matrix is None:
        return picture
    a, b, c, d = matrix
    if abs(b) > abs(a):
        right, down, picture = c, b, picture.transpose(1, 0, 2)
    else:
        right, down = a, d
    picture = picture[:, ::-1] if right < 0 else picture
    picture = picture[::-1] if down < 0 else picture
    return np.ascontiguousarray(picture)
