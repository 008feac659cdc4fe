"""Read a PNG's chunks: its size, and how many bytes its decoder would inflate."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from model.media.types import Limits, TooLarge

#: Largest number of chunks in a PNG. Encoders write 8 KiB or more into each.
_MAX_CHUNKS = 100_000
#: Largest number of text chunks in a PNG. FFmpeg compares each with all previous ones.
_MAX_TEXTS = 2000
_TEXTS = frozenset((b"tEXt", b"zTXt", b"iTXt"))
#: Samples per pixel, by colour type.
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
#: Highest compression ratio of deflate.
_MAX_RATIO = 1032
#: Output and input bytes per call of zlib.
_OUT_BYTES, _IN_BYTES = 1 << 18, 1 << 16


class _Chunk(NamedTuple):
    """A chunk's name, and where its data begins and ends."""

    name: bytes
    begin: int
    end: int


def read_size(data: bytes) -> tuple[int, int]:
    """Return width and height; (0, 0) if a chunk is longer than the file.

    OpenCV would allocate such a chunk. Raises TooLarge for too many chunks.
    """
    last = max(_chunks(data), key=lambda chunk: chunk.begin, default=None)
    if last is None or last.name != b"IEND" or last.end + 4 > len(data):
        return 0, 0
    return read_header_size(data)


def read_header_size(data: bytes) -> tuple[int, int]:
    """Return width and height by the header alone."""
    return _read_uint32(data, 16), _read_uint32(data, 20)


def check_inflated(data: bytes, limits: Limits) -> None:
    """Raise TooLarge if the PNG inflates to too many bytes besides its pixels.

    Compressed texts and profiles, and surplus data behind the pixels of each picture, may inflate
    to `limits.max_inflated_bytes` in total. Check size and number of pictures first: their pixels
    are inflated here without a limit.
    """
    remaining_after(data, limits.max_inflated_bytes, limits)


def count_frames(data: bytes) -> int:
    """Return the number of frames of an APNG; 0 for other PNGs. Raises TooLarge as `read_size`."""
    return sum(chunk.name == b"fcTL" for chunk in _chunks(data))


def remaining_after(data: bytes, remaining: int, limits: Limits) -> int:
    """Return `remaining` bytes less the inflated bytes of texts, profiles and surplus.

    Raises TooLarge if there are more.
    """
    view = memoryview(data)
    whole = expected = _uncompressed_bytes(data, _read_uint32(data, 16), _read_uint32(data, 20))
    pixels: list[memoryview] = []
    texts = 0
    for chunk in _chunks(data):
        if chunk.name in (b"IDAT", b"fdAT"):
            pixels.append(view[chunk.begin + 4 * (chunk.name == b"fdAT") : chunk.end])
        elif chunk.name == b"fcTL":  # a new frame begins
            remaining = _remaining_after_stream(remaining, pixels, expected, limits)
            pixels = []
            width, height = _read_uint32(data, chunk.begin + 4), _read_uint32(data, chunk.begin + 8)
            expected = min(whole, _uncompressed_bytes(data, width, height))
        else:
            texts += chunk.name in _TEXTS
            if texts > _MAX_TEXTS:
                raise TooLarge(f"the PNG has too many texts; at most {_MAX_TEXTS} are accepted")
            text = _compressed_payload(view[chunk.begin : chunk.end], chunk.name)
            remaining = _remaining_after_stream(remaining, [text], 0, limits)
    return _remaining_after_stream(remaining, pixels, expected, limits)


def _remaining_after_stream(
    remaining: int, stream: list[memoryview], expected: int, limits: Limits
) -> int:
    """Subtract the inflated bytes of a stream, without its `expected` bytes of pixels."""
    max_length = expected + remaining
    if _MAX_RATIO * sum(map(len, stream)) <= expected:
        return remaining
    length = _inflated_bytes(stream, max_length)
    if length > max_length:
        raise TooLarge(
            "the PNG's texts, profiles and surplus pixel data are too large when inflated; at most "
            f"{limits.max_inflated_bytes} bytes are accepted",
            limit="max_inflated_bytes",
        )
    return remaining - max(0, length - expected)


def _inflated_bytes(stream: Iterable[memoryview], max_length: int) -> int:
    """Return the inflated size of a zlib stream, counted up to a little more than `max_length`."""
    inflating = zlib.decompressobj()
    count = 0
    try:
        for part in stream:
            for start in range(0, len(part), _IN_BYTES):
                rest = bytes(part[start : start + _IN_BYTES])
                while rest and not inflating.eof:
                    count += len(inflating.decompress(rest, _OUT_BYTES))
                    rest = inflating.unconsumed_tail
                    if count > max_length:
                        return count
    except zlib.error:  # the decoder stops there as well
        pass
    return count


def _compressed_payload(chunk: memoryview, name: bytes) -> memoryview:
    """Return the zlib stream in a text or profile chunk; empty if there is none."""
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


def _uncompressed_bytes(data: bytes, width: int, height: int) -> int:
    """Return the bytes of a picture's rows before compression, rounded up for interlacing."""
    bits = width * _SAMPLES.get(data[25] if len(data) > 25 else 0, 4) * data[24]
    return height * (bits // 8 + 1 + 8) + 8 * width


def _chunks(data: bytes) -> Iterator[_Chunk]:
    """Yield the chunks up to IEND or the end of the file. Raises TooLarge for too many."""
    offset = 8
    for _ in range(_MAX_CHUNKS):
        if offset >= len(data):
            return
        chunk = _Chunk(
            data[offset + 4 : offset + 8], offset + 8, offset + 8 + _read_uint32(data, offset)
        )
        yield chunk
        if chunk.name == b"IEND":
            return
        offset = chunk.end + 4
    raise TooLarge(f"the PNG has too many chunks; at most {_MAX_CHUNKS} are accepted")


def _read_uint32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "big")
