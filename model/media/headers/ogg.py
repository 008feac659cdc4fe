"""Split chained Ogg files: each link of the chain is a complete Ogg file (RFC 3533)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from model.media.types import TooLarge

_CAPTURE = b"OggS"
#: Bytes of a page's header before its segment table.
_HEAD_BYTES = 27
_BEGINNING_OF_STREAM = 2
#: First bytes of video streams: Theora, Dirac, VP8 and OGM video.
_VIDEO_HEADS = (b"\x80theora", b"BBCD\0", b"OVP80", b"\x01video")
#: Largest number of links in a chain. A minute of internet radio has a few.
_MAX_LINKS = 100
#: Largest number of pages. A minute of sound has a few thousand.
_MAX_PAGES = 100_000


@dataclass(frozen=True)
class _Page:
    """A page's offset, whether it begins a stream, and the first bytes of its body."""

    start: int
    begins_stream: bool
    head: bytes


def split_links(data: bytes) -> list[bytes]:
    """Return the links of an Ogg file; a file of any other format as its own single link.

    A link begins with the first pages of its streams, behind pages of the previous link. Raises
    TooLarge for too many links or pages.
    """
    if not data.startswith(_CAPTURE):
        return [data]
    starts, was_beginning = [0], True
    for page in _pages(data):
        if page.begins_stream and not was_beginning:
            starts.append(page.start)
            if len(starts) > _MAX_LINKS:
                raise TooLarge(
                    f"the file is a chain of too many Ogg files; at most {_MAX_LINKS} are accepted"
                )
        was_beginning = page.begins_stream
    if len(starts) == 1:
        return [data]
    return [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]


def has_pictures(data: bytes) -> bool:
    """Return whether a stream of an Ogg file is video."""
    return any(page.begins_stream and page.head.startswith(_VIDEO_HEADS) for page in _pages(data))


def is_one_sound(data: bytes) -> bool:
    """Return whether this is an Ogg file of a single stream that is not video."""
    if not data.startswith(_CAPTURE) or has_pictures(data):
        return False
    return sum(page.begins_stream for page in _pages(data)) == 1


def _pages(data: bytes) -> Iterator[_Page]:
    """Yield the pages in order, skipping damaged bytes between them.

    Raises TooLarge for too many.
    """
    start = data.find(_CAPTURE)
    for _ in range(_MAX_PAGES):
        if not 0 <= start <= len(data) - _HEAD_BYTES:
            return
        segments = data[start + _HEAD_BYTES - 1]
        body = start + _HEAD_BYTES + segments
        begins_stream = bool(data[start + 5] & _BEGINNING_OF_STREAM)
        yield _Page(start, begins_stream, data[body : body + 8])
        end = body + sum(data[start + _HEAD_BYTES : body])
        if end == len(data):
            return
        # A length that does not lead to a page is damaged, or the page is: search the next one.
        has_next_page = data.startswith(_CAPTURE, end)
        start = end if has_next_page else data.find(_CAPTURE, start + len(_CAPTURE))
    raise TooLarge(f"the file has too many Ogg pages; at most {_MAX_PAGES} are accepted")
