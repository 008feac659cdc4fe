"""Read a JPEG's segments: its size and its number of scans (ITU-T T.81, annex B)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from model.media.types import Limits, TooLarge

#: Largest number of segments in a JPEG.
_MAX_SEGMENTS = 100_000
#: A marker. Within a scan's data, 0xFF is followed by 0x00 or by a restart marker's number.
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_START_OF_SCAN, _START_OF_IMAGE, _END_OF_IMAGE, _TEM = 0xDA, 0xD8, 0xD9, 0x01
_NOT_FRAMES = (0xC4, 0xC8, 0xCC)


class _Segment(NamedTuple):
    """A segment's marker, and the offset of its length."""

    marker: int
    begin: int


def read_size(data: bytes) -> tuple[int, int]:
    """Return width and height of the first frame; (0, 0) if there is none.

    Raises TooLarge for too many segments.
    """
    for segment in _segments(data):
        if 0xC0 <= segment.marker <= 0xCF and segment.marker not in _NOT_FRAMES:
            return _read_uint16(data, segment.begin + 5), _read_uint16(data, segment.begin + 3)
    return 0, 0


def check_scans(data: bytes, width: int, height: int, limits: Limits) -> None:
    """Raise TooLarge if width x height x scans exceeds `limits.max_composed_pixels`."""
    max_scans = max(1, limits.max_composed_pixels // (width * height))
    for number, _ in enumerate(_scans(data)):
        if number == max_scans:
            raise TooLarge(
                f"the JPEG of {width} x {height} pixels has more than {max_scans} scans; width x "
                f"height x scans may be at most {limits.max_composed_pixels} pixels",
                limit="max_composed_pixels",
            )


def count_scans(data: bytes) -> int:
    """Return the number of scans. Raises TooLarge for too many segments."""
    return sum(1 for _ in _scans(data))


def _scans(data: bytes) -> Iterator[_Segment]:
    return (segment for segment in _segments(data) if segment.marker == _START_OF_SCAN)


def _segments(data: bytes) -> Iterator[_Segment]:
    """Yield the segments up to the end of the image. Raises TooLarge for too many."""
    offset = 2
    for _ in range(_MAX_SEGMENTS):
        match = _MARKER.search(data, offset)
        if match is None or match[1][0] == _END_OF_IMAGE:
            return
        marker, offset = match[1][0], match.end()
        if marker in (_START_OF_IMAGE, _TEM):  # these have no length
            continue
        yield _Segment(marker, offset)
        offset += max(2, _read_uint16(data, offset))
    raise TooLarge(f"the JPEG has too many segments; at most {_MAX_SEGMENTS} are accepted")


def _read_uint16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2], "big")
