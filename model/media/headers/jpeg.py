"""What a JPEG's segments say: its size, and how many scans its decoder would go through."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from model.media.types import Limits, TooLarge

#: More segments than an honest JPEG has: each costs time.
_MOST_SEGMENTS = 100_000
#: A marker: in a scan's data, 0xFF is followed by a zero or by a restart marker's number.
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_START_OF_SCAN, _START_OF_IMAGE, _END_OF_IMAGE, _TEM = 0xDA, 0xD8, 0xD9, 0x01
_NO_FRAMES = (0xC4, 0xC8, 0xCC)


class _Segment(NamedTuple):
    """A segment's marker, and where its length stands."""

    marker: int
    begin: int


def size(data: bytes) -> tuple[int, int]:
    """Width and height of the first frame; (0, 0) where there is none.

    Raises TooLarge where there are too many segments.
    """
    for segment in _segments(data):
        if 0xC0 <= segment.marker <= 0xCF and segment.marker not in _NO_FRAMES:
            return _number(data, segment.begin + 5), _number(data, segment.begin + 3)
    return 0, 0


def check_scans(data: bytes, width: int, height: int, limits: Limits) -> None:
    """Raise TooLarge where its scans go over more pixels than `limits.max_composed_pixels`."""
    most = max(1, limits.max_composed_pixels // (width * height))
    for number, _ in enumerate(_scans(data)):
        if number == most:
            raise TooLarge(
                f"the JPEG of {width} x {height} pixels has more than {most} scans; width x "
                f"height x scans may be at most {limits.max_composed_pixels} pixels"
            )


def scans(data: bytes) -> int:
    """How many scans the image has. Raises as `size` does."""
    return sum(1 for _ in _scans(data))


def _scans(data: bytes) -> Iterator[_Segment]:
    return (segment for segment in _segments(data) if segment.marker == _START_OF_SCAN)


def _segments(data: bytes) -> Iterator[_Segment]:
    """The segments up to the end of the image. Raises TooLarge where there are too many."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        found = _MARKER.search(data, at)
        if found is None or found[1][0] == _END_OF_IMAGE:
            return
        marker, at = found[1][0], found.end()
        if marker in (_START_OF_IMAGE, _TEM):  # these have no length
            continue
        yield _Segment(marker, at)
        at += max(2, _number(data, at))
    raise TooLarge(f"the JPEG has more than {_MOST_SEGMENTS} segments, which is the most accepted")


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")
