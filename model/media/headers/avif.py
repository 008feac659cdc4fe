"""Read the boxes of AVIF pictures, and distinguish AVIF from HEIC."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

_HEIC = b"heic", b"heix", b"heim", b"heis"


def detect_kind(data: bytes) -> Literal["AVIF", "HEIC"] | None:
    """Return the picture format by the brands in the first box.

    None for image sequences (major brands avis, hevc) and for all other files.
    """
    brands = data[8 : min(_read_uint32(data, 0), 256)]
    if data[4:8] != b"ftyp" or not brands.startswith((b"avif", b"mif1", *_HEIC)):
        return None
    return "AVIF" if b"avif" in brands else "HEIC"


def read_size(data: bytes) -> tuple[int, int]:
    """Return the size of the largest item: tiles, alpha and thumbnail have their own."""
    meta = _meta_box(data)
    sizes = [
        (_read_uint32(meta, offset), _read_uint32(meta, offset + 4))
        for offset in _content_offsets(meta, b"ispe\0\0\0\0")
    ]
    return max(sizes, key=lambda sides: sides[0] * sides[1], default=(0, 0))


def bit_depth(data: bytes) -> int:
    """Return the bits per sample: 8, 10 or 12."""
    meta = _meta_box(data)
    flags = [meta[offset + 2 : offset + 3] for offset in _content_offsets(meta, b"av1C")]
    if not any(flag and flag[0] & 0x40 for flag in flags):
        return 8
    return 12 if any(flag and flag[0] & 0x20 for flag in flags) else 10


def apply_orientation(picture: NDArray[np.generic], data: bytes) -> NDArray[np.generic]:
    """Apply `irot` (quarter turns anticlockwise), then `imir` (mirror), to a picture [h, w, …]."""
    meta = _meta_box(data)
    for offset in _content_offsets(meta, b"\0\0\0\x09irot"):
        picture = np.rot90(picture, meta[offset] & 3)
    for offset in _content_offsets(meta, b"\0\0\0\x09imir"):
        picture = picture[:, ::-1] if meta[offset] & 1 else picture[::-1]
    return np.ascontiguousarray(picture)


def _meta_box(data: bytes) -> bytes:
    """Return the `meta` box, which describes the picture; empty if there is none."""
    offset = 0
    while (length := _read_uint32(data, offset)) >= 8:
        if data[offset + 4 : offset + 8] == b"meta":
            return data[offset : offset + length]
        offset += length
    return b""


def _content_offsets(meta: bytes, head: bytes) -> list[int]:
    """Return the offset behind each occurrence of `head`."""
    pieces = meta.split(head)[:-1]
    ends = np.cumsum([len(piece) + len(head) for piece in pieces], dtype=int)
    return [int(end) for end in ends if end < len(meta)]


def _read_uint32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "big")
