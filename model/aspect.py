"""How oblong a video's pixels are, as its container or else each of its frames says."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from av.stream import Stream

from model.pyav import fraction

#: Pixels more oblong than this are damage, not a format.
_MAX_ASPECT = 4.0


class Aspects:
    """Width of a pixel over its height, by packet.

    PyAV's frames do not have it. A decoder does, from the first frame that it has decoded on.
    """

    def __init__(self, stream: Stream, *, changes: bool) -> None:
        """`changes`: whether it may change, with a decoder that has one thread alone."""
        self._context: Any = stream.codec_context
        self._of_container = fraction(getattr(stream, "sample_aspect_ratio", None))
        self._changes = changes and self._of_container is None
        self._noted: list[tuple[int, Any]] = []

    def note(self, index: int) -> None:
        """Keep what the decoder says now that it has been given packet number `index`."""
        if self._changes:
            self._noted.append((index, self._context.sample_aspect_ratio))

    def at(self, index: int) -> float:
        """The aspect of the frame that packet number `index` makes, once it is decoded."""
        said = self._context.sample_aspect_ratio
        if self._noted:
            before = bisect_right(self._noted, index, key=lambda noted: noted[0])
            said = self._noted[max(0, before - 1)][1]
        aspect = float(self._of_container or fraction(said) or 1)
        return aspect if 1 / _MAX_ASPECT <= aspect <= _MAX_ASPECT else 1.0
