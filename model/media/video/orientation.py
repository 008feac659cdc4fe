"""How frames are shown: the form of their pixels, and which side is up."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from av.stream import Stream
from av.video.frame import VideoFrame

from model.media.pyav import display_matrix, fraction

#: Pixels more oblong than this are damage, not a format.
_MAX_ASPECT = 4.0
#: Containers that say it themselves, and are right where a frame says something else.
_WITH_ASPECT = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "asf")


Matrix = tuple[int, int, int, int]


class Aspects:
    """Width of a pixel over its height, by packet.

    PyAV's frames do not have it. A decoder does, from the first frame that it has decoded on.
    """

    def __init__(self, stream: Stream, *, changes: bool) -> None:
        """`changes`: whether it may change, with a decoder that has one thread alone."""
        self._context: Any = stream.codec_context
        self._of_stream = fraction(getattr(stream, "sample_aspect_ratio", None))
        self._is_stated = bool(self._of_stream) and stream.container.format.name in _WITH_ASPECT
        self._changes = changes and not self._is_stated
        self._noted: list[tuple[int, Any]] = []

    def note(self, index: int) -> None:
        """Keep the decoder's aspect after it has decoded packet number `index`."""
        if self._changes:
            self._noted.append((index, self._context.sample_aspect_ratio))

    def at(self, index: int) -> float:
        """The aspect of the frame that packet number `index` makes, once it is decoded."""
        of_frame = self._context.sample_aspect_ratio
        if self._noted:
            before = bisect_right(self._noted, index, key=lambda noted: noted[0])
            of_frame = self._noted[max(0, before - 1)][1]
        aspect = float((None if self._is_stated else fraction(of_frame)) or self._of_stream or 1)
        return aspect if 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT else 1.0


class Turns:
    """Display matrices, by when frames are shown.

    What a stream itself says comes with a key frame and holds for those behind it as well.
    """

    def __init__(self) -> None:
        self._of_keys: list[tuple[float, Matrix | None]] = []

    def note(self, time: float | None, key_frame: VideoFrame) -> None:
        """Keep a key frame's; they come in the order in which they are shown."""
        if time is not None:
            self._of_keys.append((time, display_matrix(key_frame)))

    def of(self, frame: VideoFrame, time: float) -> Matrix | None:
        """The matrix of the frame that is shown at `time`; None where it has none."""
        before = bisect_right(self._of_keys, time, key=lambda key: key[0])
        of_key = self._of_keys[before - 1][1] if before else None
        return display_matrix(frame) or of_key
