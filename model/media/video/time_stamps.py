"""Packets of video with the time at which their frame is shown."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

from av.packet import Packet
from av.stream import Stream

#: Times that differ by at most this, in seconds, are equal: containers round them.
TIME_TOLERANCE_S = 1e-4


class TimedPacket(NamedTuple):
    """A packet of video.

    - `time`: when its frame is shown, in seconds.
    - `is_key`: whether decoding can start at it.
    - `is_discarded`: whether the container discards its frame after decoding (an edit list).
    """

    packet: Packet[Any]
    time: float
    is_key: bool
    is_discarded: bool


def to_seconds(stamp: int, unit: Fraction) -> float:
    """Convert a time stamp to seconds."""
    return stamp * unit.numerator / unit.denominator  # faster than a product of fractions


def lacks_pts(stream: Stream) -> bool:
    """Return whether the container has no presentation times, so that frames are counted.

    AVI stores decoding order only. The times that FFmpeg guesses are wrong with B-frames.
    """
    return stream.container.format.name == "avi"
