"""How many comments the long header packets of an Ogg file hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

_CAPTURE, _HEAD_BYTES = b"OggS", 27
_FULL = b"\xff"
#: How packets of comments begin, wherever they are; and of a stream's pages, those in which one of
#: another codec may begin.
_MARKS = (b"\x03vorbis", b"\x81theora", b"OVP80\x02", b"OpusTags")
_FIRST_PAGES = 2


def comments(data: bytes) -> Iterator[int]:
    """The number of comments in each packet that is longer than a page.

    FFmpeg reads such a packet whole before it compares its comments. A comment has an equals sign.
    """
    pages: Counter[bytes] = Counter()
    counts: dict[bytes, int] = {}  # of packets that go on, by stream
    for serial, lacing, body in _pages(data):
        full = len(lacing) - len(lacing.lstrip(_FULL))
        goes_on = full == len(lacing)
        if serial in counts:
            end = 255 * full + (0 if goes_on else lacing[full])
            counts[serial] += body.count(b"=", 0, end)
            yield counts[serial]
            if goes_on:
                continue
            del counts[serial]
        rest = len(lacing) - len(lacing.rstrip(_FULL))
        begin = len(body) - 255 * rest
        if rest and (body.startswith(_MARKS, begin) or pages[serial] < _FIRST_PAGES):
            counts[serial] = body.count(b"=", begin)
        pages[serial] += 1


def _pages(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Serial number, lengths of segments and body of each page."""
    at = 0 if data.startswith(_CAPTURE) else -1
    while 0 <= at <= len(data) - _HEAD_BYTES:
        begin = at + _HEAD_BYTES + data[at + _HEAD_BYTES - 1]
        lacing = data[at + _HEAD_BYTES : begin]
        end = begin + sum(lacing)
        yield data[at + 14 : at + 18], lacing, data[begin:end]
        at = data.find(_CAPTURE, end if data.startswith(_CAPTURE, end) else at + len(_CAPTURE))
