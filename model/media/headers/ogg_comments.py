"""Count the comments in long header packets of Ogg files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

_CAPTURE, _HEAD_BYTES = b"OggS", 27
_FULL = b"\xff"
#: First bytes of comment packets; and the number of a stream's first pages in which a comment
#: packet of another codec may begin.
_MARKS = (b"\x03vorbis", b"\x81theora", b"OVP80\x02", b"OpusTags")
_FIRST_PAGES = 2


def count_comments(data: bytes) -> Iterator[int]:
    """Yield the number of comments (equals signs) in each packet that is longer than a page.

    FFmpeg reads such a packet completely before it compares its comments.
    """
    pages: Counter[bytes] = Counter()
    counts: dict[bytes, int] = {}  # of packets that continue on the next page, by stream
    for serial, lacing, body in _pages(data):
        full = len(lacing) - len(lacing.lstrip(_FULL))
        is_continued = full == len(lacing)
        if serial in counts:
            end = 255 * full + (0 if is_continued else lacing[full])
            counts[serial] += body.count(b"=", 0, end)
            yield counts[serial]
            if is_continued:
                continue
            del counts[serial]
        rest = len(lacing) - len(lacing.rstrip(_FULL))
        begin = len(body) - 255 * rest
        if rest and (body.startswith(_MARKS, begin) or pages[serial] < _FIRST_PAGES):
            counts[serial] = body.count(b"=", begin)
        pages[serial] += 1


def _pages(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield serial number, segment table and body of each page."""
    offset = 0 if data.startswith(_CAPTURE) else -1
    while 0 <= offset <= len(data) - _HEAD_BYTES:
        begin = offset + _HEAD_BYTES + data[offset + _HEAD_BYTES - 1]
        lacing = data[offset + _HEAD_BYTES : begin]
        end = begin + sum(lacing)
        yield data[offset + 14 : offset + 18], lacing, data[begin:end]
        offset = data.find(
            _CAPTURE, end if data.startswith(_CAPTURE, end) else offset + len(_CAPTURE)
        )
