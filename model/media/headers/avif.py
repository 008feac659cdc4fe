"""What the boxes of an AVIF say of its picture, and how to tell it from a HEIC."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

_HEIC = b"heic", b"heix", b"heim", b"heis"


def kind_of(data: bytes) -> Literal["AVIF", "HEIC"] | None:
    """Which of the two the first box says this is; None for a film, be it one of theirs."""
    brands = data[8 : min(_big(data, 0), 256)]
    if data[4:8] != b"ftyp" or not brands.startswith((b"avif", b"mif1", *_HEIC)):
        return None
    return "AVIF" if b"avif" in brands else "HEIC"


def size(data: bytes) -> tuple[int, int]:
    """The largest width and height of any part: its tiles, transparency and preview have theirs."""
    meta = _meta(data)
    sizes = [(_big(meta, at), _big(meta, at + 4)) for at in _contents(meta, b"ispe\0\0\0\0")]
    return max(sizes, key=lambda sides: sides[0] * sides[1], default=(0, 0))


def depth(data: bytes) -> int:
    """Bits of a sample: 8, 10 or 12."""
    meta = _meta(data)
    flags = [meta[at + 2 : at + 3] for at in _contents(meta, b"av1C")]
    if not any(flag and flag[0] & 0x40 for flag in flags):
        return 8
    return 12 if any(flag and flag[0] & 0x20 for flag in flags) else 10


def turned(picture: NDArray[np.generic], data: bytes) -> NDArray[np.generic]:
    """The decoded picture [h, w, …] upright: quarter turns anticlockwise, then a mirror."""
    meta = _meta(data)
    for at in _contents(meta, b"\0\0\0\x09irot"):
        picture = np.rot90(picture, meta[at] & 3)
    for at in _contents(meta, b"\0\0\0\x09imir"):
        picture = picture[:, ::-1] if meta[at] & 1 else picture[::-1]
    return np.ascontiguousarray(picture)


def _meta(data: bytes) -> bytes:
    """The box that describes the picture; nothing where there is none."""
    at = 0
    while (length := _big(data, at)) >= 8:
        if data[at + 4 : at + 8] == b"meta":
            return data[at : at + length]
        at += length
    return b""


def _contents(meta: bytes, head: bytes) -> list[int]:
    """Where what follows each such head begins."""
    pieces = meta.split(head)[:-1]
    ends = np.cumsum([len(piece) + len(head) for piece in pieces], dtype=int)
    return [int(end) for end in ends if end < len(meta)]


def _big(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")
