"""What the elements of a Matroska or WebM file say of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_HEAD = b"\x1a\x45\xdf\xa3"
_SEGMENT = 0x18538067
#: More elements on one level than a header has.
_MOST_ELEMENTS = 1000


class _Element(NamedTuple):
    """What an element holds is at `begin` to `end`; `end` is None where it does not say."""

    number: int
    begin: int
    end: int | None


def is_cut(data: bytes) -> bool:
    """Whether the file ends before its segment does, as far as that says where it ends."""
    segment = _segment(data)
    return segment is not None and segment.end is not None and segment.end > len(data)


def _segment(data: bytes) -> _Element | None:
    if not data.startswith(_HEAD):
        return None
    elements = _elements(data, 0, len(data))
    return next((element for element in elements if element.number == _SEGMENT), None)


def in_segment(data: bytes, *path: int) -> Iterator[tuple[int, int]]:
    """Where what the elements at a path of numbers below the segment hold begins and ends."""
    segment = _segment(data)
    if segment is not None:
        yield from within(data, segment.begin, segment.end or len(data), *path)


def within(data: bytes, begin: int, end: int, *path: int) -> Iterator[tuple[int, int]]:
    """The same of those between two places."""
    if not path:
        yield begin, end
        return
    for element in _elements(data, begin, end):
        if element.number == path[0]:
            yield from within(data, element.begin, element.end or end, *path[1:])


def _elements(data: bytes, begin: int, end: int) -> Iterator[_Element]:
    """The elements between two places, up to one that does not say where it ends."""
    at = begin
    for _ in range(_MOST_ELEMENTS):
        number, at = _number(data, at, keep_mark=True)
        size, at = _number(data, at, keep_mark=False)
        if number is None or at > min(end, len(data)):
            return
        yield _Element(number, at, None if size is None else at + size)
        if size is None:
            return
        at += size


def _number(data: bytes, at: int, keep_mark: bool) -> tuple[int | None, int]:
    """A number of variable length and where it ends; None where all its bits are set, or none is.

    Its length is in its first byte: as many zeros as bytes follow, and a one as a mark.
    """
    if at >= len(data) or not data[at]:
        return None, at + 1
    length = 9 - data[at].bit_length()
    number = int.from_bytes(data[at : at + length], "big")
    value = number & ((1 << 7 * length) - 1)
    unknown = value == (1 << 7 * length) - 1
    if keep_mark:
        return number, at + length
    return (None if unknown else value), at + length
