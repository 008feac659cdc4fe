"""Ogg files that were put together: each link of the chain is a file of its own (RFC 3533)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from model.media.types import TooLarge

_CAPTURE = b"OggS"
#: Bytes of a page's header before its table of segments.
_HEAD_BYTES = 27
_BEGINNING_OF_STREAM = 2
#: How the first packets of video streams begin: Theora, Dirac, VP8, OGM's video.
_VIDEO_HEADS = (b"\x80theora", b"BBCD\0", b"OVP80", b"\x01video")
#: Most links of a chain: a minute of radio has a few, and each costs time.
_MAX_LINKS = 100
#: Most pages, or what looks like one: a minute has a few thousand, and each costs time.
_MAX_PAGES = 100_000


@dataclass(frozen=True)
class _Page:
    """Where a page begins, whether a stream begins with it, and how its body begins."""

    start: int
    begins_stream: bool
    head: bytes


def links(data: bytes) -> list[bytes]:
    """The files that an Ogg file is made of; a file of any other kind, whole.

    A link begins with the first pages of its streams, behind pages of another link. Raises
    TooLarge where there are more than a hundred, or too many pages.
    """
    if not data.startswith(_CAPTURE):
        return [data]
    starts, was_beginning = [0], True
    for page in _pages(data):
        if page.begins_stream and not was_beginning:
            starts.append(page.start)
            if len(starts) > _MAX_LINKS:
                raise TooLarge(f"the file is more than {_MAX_LINKS} Ogg files in one")
        was_beginning = page.begins_stream
    if len(starts) == 1:
        return [data]
    return [data[start:end] for start, end in zip(starts, [*starts[1:], len(data)], strict=True)]


def has_pictures(data: bytes) -> bool:
    """Whether a stream of an Ogg file is video."""
    return any(page.begins_stream and page.head.startswith(_VIDEO_HEADS) for page in _pages(data))


def is_one_sound(data: bytes) -> bool:
    """Whether this is an Ogg file of a single stream, which is no video."""
    if not data.startswith(_CAPTURE) or has_pictures(data):
        return False
    return sum(page.begins_stream for page in _pages(data)) == 1


def _pages(data: bytes) -> Iterator[_Page]:
    """The pages, in order; bytes between them, where the file is damaged, are passed over.

    Raises TooLarge where there are too many.
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
        # A length that leads to no page is damaged, or the page is: the next one is looked for.
        whole = data.startswith(_CAPTURE, end)
        start = end if whole else data.find(_CAPTURE, start + len(_CAPTURE))
    raise TooLarge(f"the file has more than {_MAX_PAGES} Ogg pages, which is the most accepted")
