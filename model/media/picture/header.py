"""Detect the format and the size of a picture file by its header, before it is decoded.

A few kilobytes can declare gigabytes of pixels, and OpenCV would try all of its decoders.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from model.media.headers import avif, jpeg, png, tiff
from model.media.types import Limits, TooLarge, Unusable

PictureFormat = Literal["PNG", "JPEG", "WebP", "GIF", "BMP", "TIFF", "AVIF", "HEIC"]


def detect_format(data: bytes) -> PictureFormat | None:
    """Return the picture format by the first bytes; None if it is none of these."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"BM") and data[6:10] == bytes(4):
        return "BMP"
    if data.startswith((b"II*\x00", b"MM\x00*")):
        return "TIFF"
    return avif.detect_kind(data)


def may_be_animated(data: bytes, picture_format: PictureFormat) -> bool:
    """Return whether the file may have several frames with times: a GIF or an APNG."""
    if picture_format == "PNG":
        return b"\0\0\0\x08acTL" in before_png_pixels(data)
    return picture_format == "GIF"


def may_have_alpha_or_floats(data: bytes, picture_format: PictureFormat) -> bool:
    """Return whether the picture may be transparent, or have samples that are not unsigned."""
    if picture_format == "PNG":
        return data[25:26] in (b"\x04", b"\x06") or b"tRNS" in before_png_pixels(data)
    if picture_format == "WebP":
        return (data[12:16] == b"VP8X" and bool(data[20] & 0x10)) or data[12:16] == b"VP8L"
    if picture_format == "TIFF":
        extra, sample_format = tiff.read_tags(data, tiff.EXTRA_SAMPLES, tiff.SAMPLE_FORMAT)
        return extra in (tiff.ASSOCIATED_ALPHA, tiff.UNASSOCIATED_ALPHA) or sample_format in (
            tiff.SIGNED_INTEGER,
            tiff.FLOAT,
        )
    return picture_format in ("GIF", "AVIF")


def before_png_pixels(data: bytes) -> bytes:
    """Return the chunks before a PNG's first IDAT chunk."""
    return data[: max(0, data.find(b"IDAT"))]


def read_size(data: bytes, picture_format: PictureFormat, limits: Limits) -> tuple[int, int]:
    """Return width and height by the header. Raises Unusable, and TooLarge beyond the limit."""
    width, height = _SIZE_READERS[picture_format](data)
    if width < 1 or height < 1:
        raise Unusable(f"this {picture_format} picture is damaged or truncated")
    check_size(width, height, limits)
    return width, height


def check_size(width: int, height: int, limits: Limits) -> None:
    """Raise TooLarge if the picture has more than `max_pixels` pixels."""
    if width * height > limits.max_pixels:
        raise TooLarge(
            f"the picture is {width} x {height} pixels; at most {limits.max_pixels} are accepted",
            limit="max_pixels",
        )


def _gif_size(data: bytes) -> tuple[int, int]:
    return _little_endian(data, 6, 2), _little_endian(data, 8, 2)


def _bmp_size(data: bytes) -> tuple[int, int]:
    if _little_endian(data, 14, 4) == 12:
        return _little_endian(data, 18, 2), _little_endian(data, 20, 2)
    height = int.from_bytes(data[22:26], "little", signed=True)  # negative: top row first
    return _little_endian(data, 18, 4), abs(height)


def _webp_size(data: bytes) -> tuple[int, int]:
    chunk = data[12:16]
    if chunk == b"VP8X":
        return _little_endian(data, 24, 3) + 1, _little_endian(data, 27, 3) + 1
    if chunk == b"VP8L":
        bits = _little_endian(data, 21, 4)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return _little_endian(data, 26, 2) & 0x3FFF, _little_endian(data, 28, 2) & 0x3FFF


_SIZE_READERS: dict[PictureFormat, Callable[[bytes], tuple[int, int]]] = {
    "PNG": png.read_size,
    "JPEG": jpeg.read_size,
    "WebP": _webp_size,
    "GIF": _gif_size,
    "BMP": _bmp_size,
    "TIFF": tiff.read_size,
    "AVIF": avif.read_size,
}


def _little_endian(data: bytes, offset: int, length: int) -> int:
    return int.from_bytes(data[offset : offset + length], "little")
