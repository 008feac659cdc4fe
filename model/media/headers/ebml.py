"""Find EBML elements in Matroska and WebM files (RFC 8794)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_MAGIC = b"\x1a\x45\xdf\xa3"
_SEGMENT = 0x18538067
#: Largest number of elements on one level. Headers have far fewer.
_MAX_ELEMENTS = 1000


class _Element(NamedTuple):
    """An element whose data is at `begin` to `end`; `end` is None for an unknown size."""

    element_id: int
    begin: int
    end: int | None


def is_truncated(data: bytes) -> bool:
    """Return whether the file ends before its segment. False if the segment's size is unknown."""
    segment = _segment(data)
    return segment is not None and segment.end is not None and segment.end > len(data)


def _segment(data: bytes) -> _Element | None:
    if not data.startswith(_MAGIC):
        return None
    elements = _elements(data, 0, len(data))
    return next((element for element in elements if element.element_id == _SEGMENT), None)


def find_in_segment(data: bytes, *path: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of the data of each element at a path of IDs below the segment."""
    segment = _segment(data)
    if segment is not None:
        yield from find_elements(data, segment.begin, segment.end or len(data), *path)


def find_elements(data: bytes, begin: int, end: int, *path: int) -> Iterator[tuple[int, int]]:
    """Yield start and end of the data of each element at a path of IDs, from `begin` to `end`."""
    if not path:
        yield begin, end
        return
    for element in _elements(data, begin, end):
        if element.element_id == path[0]:
            yield from find_elements(data, element.begin, element.end or end, *path[1:])


def _elements(data: bytes, begin: int, end: int) -> Iterator[_Element]:
    """Yield the elements from `begin` to `end`, up to one of unknown size."""
    offset = begin
    for _ in range(_MAX_ELEMENTS):
        element_id, offset = _read_vint(data, offset, keep_marker=True)
        size, offset = _read_vint(data, offset, keep_marker=False)
        if element_id is None or offset > min(end, len(data)):
            return
        yield _Element(element_id, offset, None if size is None else offset + size)
        if size is None:
            return
        offset += size


def _read_vint(data: bytes, offset: int, keep_marker: bool) -> tuple[int | None, int]:
    """Return a variable-size integer and the offset behind it (RFC 8794, 4).

    The integer is None if it is invalid, or, without `keep_marker`, reserved for unknown sizes.
    """
    if offset >= len(data) or not data[offset]:
        return None, offset + 1
    length = 9 - data[offset].bit_length()
    number = int.from_bytes(data[offset : offset + length], "big")
    value = number & ((1 << 7 * length) - 1)
    unknown = value == (1 << 7 * length) - 1
    if keep_marker:
        return number, offset + length
    return (None if unknown else value), offset + length
