"""What a PNG's chunks say: its size, and how much its decoder would inflate."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from model.media.types import Limits, TooLarge

#: More chunks than an honest PNG has: each costs time. Encoders write 8 KiB or more in each.
_MOST_CHUNKS = 100_000
#: More texts than an honest PNG has: FFmpeg compares each with all before it.
_MOST_TEXTS = 2000
_TEXTS = frozenset((b"tEXt", b"zTXt", b"iTXt"))
#: Samples of a pixel by colour type.
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
#: No deflate stream inflates to more than this many times its length.
_HIGHEST_RATIO = 1032
#: Bytes that are inflated at a time, and that they are inflated from.
_OUT_BYTES, _IN_BYTES = 1 << 18, 1 << 16


class _Chunk(NamedTuple):
    """A chunk's name, and where its data begins and ends."""

    name: bytes
    begin: int
    end: int


def size(data: bytes) -> tuple[int, int]:
    """Width and height; (0, 0) where a chunk is longer than the file: OpenCV would allocate it.

    Raises TooLarge where there are too many chunks.
    """
    last = max(_chunks(data), key=lambda chunk: chunk.begin, default=None)
    if last is None or last.name != b"IEND" or last.end + 4 > len(data):
        return 0, 0
    return header_size(data)


def header_size(data: bytes) -> tuple[int, int]:
    """Width and height, whatever follows."""
    return _number(data, 16), _number(data, 20)


def check_inflated(data: bytes, limits: Limits) -> None:
    """Raise TooLarge where compressed texts and profiles, and what follows the pixels of each
    picture, inflate to more than `limits.max_inflated_bytes` in all.

    To be called where the size and the number of pictures are known to be accepted: what their
    pixels inflate to is no surplus, and is gone through.
    """
    left_after(data, limits.max_inflated_bytes, limits)


def pictures(data: bytes) -> int:
    """How many pictures an APNG composes; 0 for any other PNG. Raises as `size` does."""
    return sum(chunk.name == b"fcTL" for chunk in _chunks(data))


def left_after(data: bytes, left: int, limits: Limits) -> int:
    """What is left of `left` bytes after such texts, profiles and surplus. Raises TooLarge."""
    view = memoryview(data)
    whole = expected = _raw_bytes(data, _number(data, 16), _number(data, 20))
    pixels: list[memoryview] = []
    texts = 0
    for chunk in _chunks(data):
        if chunk.name in (b"IDAT", b"fdAT"):
            pixels.append(view[chunk.begin + 4 * (chunk.name == b"fdAT") : chunk.end])
        elif chunk.name == b"fcTL":  # the next picture begins, whatever else lay in between
            left = _rest(left, pixels, expected, limits)
            pixels = []
            width, height = _number(data, chunk.begin + 4), _number(data, chunk.begin + 8)
            expected = min(whole, _raw_bytes(data, width, height))
        else:
            texts += chunk.name in _TEXTS
            if texts > _MOST_TEXTS:
                raise TooLarge(
                    f"the PNG has more than {_MOST_TEXTS} texts, which is the most accepted"
                )
            text = _compressed(view[chunk.begin : chunk.end], chunk.name)
            left = _rest(left, [text], 0, limits)
    return _rest(left, pixels, expected, limits)


def _rest(left: int, stream: list[memoryview], expected: int, limits: Limits) -> int:
    """What is left to inflate after a stream of which `expected` bytes are pixels."""
    most = expected + left
    if _HIGHEST_RATIO * sum(map(len, stream)) <= expected:
        return left
    length = _inflated_bytes(stream, most)
    if length > most:
        raise TooLarge(
            "the PNG's compressed texts, profiles and surplus pixel data inflate to more than "
            f"{limits.max_inflated_bytes} bytes, which is the most that is accepted"
        )
    return left - max(0, length - expected)


def _inflated_bytes(stream: Iterable[memoryview], most: int) -> int:
    """How many bytes a zlib stream inflates to, counted up to a little more than `most`."""
    inflating = zlib.decompressobj()
    count = 0
    try:
        for part in stream:
            for start in range(0, len(part), _IN_BYTES):
                rest = bytes(part[start : start + _IN_BYTES])
                while rest and not inflating.eof:
                    count += len(inflating.decompress(rest, _OUT_BYTES))
                    rest = inflating.unconsumed_tail
                    if count > most:
                        return count
    except zlib.error:  # its decoder stops there as well
        pass
    return count


def _compressed(chunk: memoryview, name: bytes) -> memoryview:
    """The zlib stream in a text or profile chunk; empty where there is none."""
    if name in (b"zTXt", b"iCCP"):
        keyword = bytes(chunk[:80]).find(b"\0")
        return chunk[keyword + 2 :] if keyword >= 0 else chunk[:0]
    if name == b"iTXt":
        whole = bytes(chunk)
        keyword = whole.find(b"\0")
        if keyword < 0 or whole[keyword + 1 : keyword + 2] != b"\1":
            return chunk[:0]
        language = whole.find(b"\0", keyword + 3)
        translated = whole.find(b"\0", language + 1)
        return chunk[translated + 1 :] if language >= 0 and translated >= 0 else chunk[:0]
    return chunk[:0]


def _raw_bytes(data: bytes, width: int, height: int) -> int:
    """Bytes of a picture's rows before compression, rounded up for interlaced ones."""
    bits = width * _SAMPLES.get(data[25] if len(data) > 25 else 0, 4) * data[24]
    return height * (bits // 8 + 1 + 8) + 8 * width


def _chunks(data: bytes) -> Iterator[_Chunk]:
    """The chunks up to IEND or the file's end. Raises TooLarge where there are too many."""
    at = 8
    for _ in range(_MOST_CHUNKS):
        if at >= len(data):
            return
        chunk = _Chunk(data[at + 4 : at + 8], at + 8, at + 8 + _number(data, at))
        yield chunk
        if chunk.name == b"IEND":
            return
        at = chunk.end + 4
    raise TooLarge(f"the PNG has more than {_MOST_CHUNKS} chunks, which is the most accepted")


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")
