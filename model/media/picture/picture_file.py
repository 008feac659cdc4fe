"""Picture files to RGB, by OpenCV: only kinds that are known, and never larger than allowed.

A header is read before a decoder sees the file, because a few kilobytes can claim gigabytes of
pixels, and because OpenCV would try every decoder that it has on anything. Of a damaged JPEG
OpenCV makes up what is missing and tells nobody, so FFmpeg has to read a JPEG without a fault.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Literal

from model.media.headers import avif, jpeg, png
from model.media.types import Limits, TooLarge, UnknownFormat, Unusable

# Read once, when cv2 is loaded: a second wall behind the check of the header below, and no
# lines on stderr about damaged files, which their senders are told of.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(Limits.max_pixels))
os.environ.setdefault("OPENCV_LOG_LEVEL", "FATAL")

import av
import cv2
import numpy as np
from numpy.typing import NDArray

Kind = Literal["PNG", "JPEG", "WebP", "GIF", "BMP", "TIFF", "AVIF", "HEIC"]
Bytes = NDArray[np.uint8]

ACCEPTED = "JPEG, PNG, WebP, AVIF, BMP, GIF or TIFF"
#: What a whole file of a kind may hold that OpenCV does not decode.
_NOT_READ = {
    "TIFF": "; 8 and 16 bits and floats are, but not 16-bit CMYK, other integers, Zstandard or LZMA"
}
#: TIFF: alpha that colours are multiplied by, or not; and samples that are no unsigned integers.
_ASSOCIATED, _UNASSOCIATED = 1, 2
_SIGNED, _FLOAT = 2, 3
#: Rows of a picture that are floats at a time.
_ROWS = 128


def kind_of(data: bytes) -> Kind | None:
    """Which kind of picture the first bytes say this is."""
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
    return avif.kind_of(data)


def may_move(data: bytes, kind: Kind) -> bool:
    """Whether it may have several pictures and the times at which they are shown."""
    return kind == "GIF" or (kind == "PNG" and b"\0\0\0\x08acTL" in _before_pixels(data))


def decoded(data: bytes, limits: Limits) -> Bytes:
    """The picture, uint8 RGB [h, w, 3], turned upright as its EXIF orientation says.

    What is transparent shows white, or black where the picture itself is light. Floats are 0 to
    1; where there are larger ones, the largest is white. Raises UnknownFormat, TooLarge (before
    any pixel is decoded) and Unusable (damaged).
    """
    kind = kind_of(data)
    if kind == "HEIC":
        raise UnknownFormat(f"HEIC pictures are not read here; send {ACCEPTED}")
    if kind is None:
        raise UnknownFormat(f"this is not a kind of picture that is read here; send {ACCEPTED}")
    width, height = size(data, kind, limits)
    if kind == "JPEG":
        jpeg.check_scans(data, width, height, limits)
    if kind == "PNG":
        png.check_inflated(data, limits)
    picture = None if kind == "JPEG" and _is_damaged_jpeg(data, limits) else _pixels(data, kind)
    if picture is None or not picture.size:
        what = f"this {kind} picture is damaged or cut short: it cannot be decoded"
        raise Unusable(what + _NOT_READ.get(kind, ""))
    return rgb(picture)


def shrunk(picture: Bytes, pixels: int) -> Bytes:
    """The picture with at most `pixels` pixels."""
    height, width = picture.shape[:2]
    if height * width <= pixels:
        return picture
    scale = (pixels / (height * width)) ** 0.5
    size = max(1, int(width * scale)), max(1, int(height * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def size(data: bytes, kind: Kind, limits: Limits) -> tuple[int, int]:
    """Width and height as the header has them. Raises Unusable, and TooLarge beyond the limit."""
    width, height = _SIZES[kind](data)
    if width < 1 or height < 1:
        raise Unusable(f"this {kind} picture is damaged or cut short")
    check_size(width, height, limits)
    return width, height


def check_size(width: int, height: int, limits: Limits) -> None:
    """Raise TooLarge beyond the limit."""
    if width * height > limits.max_pixels:
        raise TooLarge(
            f"the picture is {width} x {height} pixels; at most {limits.max_pixels} are accepted"
        )


def _little(data: bytes, at: int, length: int) -> int:
    return int.from_bytes(data[at : at + length], "little")


def _big(data: bytes, at: int, length: int) -> int:
    return int.from_bytes(data[at : at + length], "big")


def _gif(data: bytes) -> tuple[int, int]:
    return _little(data, 6, 2), _little(data, 8, 2)


def _bmp(data: bytes) -> tuple[int, int]:
    if _little(data, 14, 4) == 12:
        return _little(data, 18, 2), _little(data, 20, 2)
    height = int.from_bytes(data[22:26], "little", signed=True)  # negative: top row first
    return _little(data, 18, 4), abs(height)


def _webp(data: bytes) -> tuple[int, int]:
    chunk = data[12:16]
    if chunk == b"VP8X":
        return _little(data, 24, 3) + 1, _little(data, 27, 3) + 1
    if chunk == b"VP8L":
        bits = _little(data, 21, 4)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return _little(data, 26, 2) & 0x3FFF, _little(data, 28, 2) & 0x3FFF


def _tiff(data: bytes) -> tuple[int, int]:
    """The first directory's size, or its tiles' where they are larger: both are allocated."""
    width, height, tile_width, tile_height = _tags(data, 256, 257, 322, 323)
    return max(width, tile_width), max(height, tile_height)


_SIZES: dict[Kind, Callable[[bytes], tuple[int, int]]] = {
    "PNG": png.size,
    "JPEG": jpeg.size,
    "WebP": _webp,
    "GIF": _gif,
    "BMP": _bmp,
    "TIFF": _tiff,
    "AVIF": avif.size,
}


def _tags(data: bytes, *wanted: int) -> list[int]:
    """First values of these tags in the first directory of a TIFF or of Exif; 0 where none is."""
    number = _little if data.startswith(b"II") else _big
    first = number(data, 4, 4)
    found = dict.fromkeys(wanted, 0)
    for entry in range(min(number(data, first, 2), 4096)):
        at = first + 2 + 12 * entry
        tag, length = number(data, at, 2), 2 if number(data, at + 2, 2) == 3 else 4
        if tag in found:
            is_here = number(data, at + 4, 4) * length <= 4
            found[tag] = number(data, at + 8 if is_here else number(data, at + 8, 4), length)
    return list(found.values())


def _is_damaged_jpeg(data: bytes, limits: Limits) -> bool:
    decoder = av.CodecContext.create("mjpeg", "r")
    decoder.thread_count = 1
    decoder.options = {"err_detect": "explode", "max_pixels": str(limits.max_pixels)}
    try:
        decoder.decode(av.Packet(data))
    except av.error.InvalidDataError:
        return True
    except av.error.FFmpegError:  # a kind of JPEG that FFmpeg does not know, such as CMYK
        return False
    return False


def _pixels(data: bytes, kind: Kind) -> NDArray[np.generic] | None:
    """What OpenCV makes of the file, upright: grey, BGR or BGRA; None where it is damaged."""
    encoded = np.frombuffer(data, np.uint8)
    try:
        if not _is_read_unchanged(data, kind):
            return cv2.imdecode(encoded, cv2.IMREAD_COLOR)
        # OpenCV turns no picture that keeps its alpha, but a TIFF.
        picture, kinds, metadata = cv2.imdecodeWithMetadata(encoded, flags=cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if picture is None:
        return None
    if kind == "TIFF":
        return _straight(picture, data)
    if kind == "AVIF":
        spare = max(0, 8 * picture.itemsize - avif.depth(data))
        return avif.turned(np.left_shift(picture, spare), data)
    if cv2.IMAGE_METADATA_EXIF not in kinds:
        return picture
    exif = bytes(metadata[list(kinds).index(cv2.IMAGE_METADATA_EXIF)]).removeprefix(b"Exif\0\0")
    return _turned(picture, _tags(exif, 274)[0])


def film(webp: bytes, most: int) -> tuple[Sequence[NDArray[np.generic]], Sequence[int]]:
    """The pictures of an animated WebP, BGRA, and how long (ms) each is shown; none if damaged."""
    encoded = np.frombuffer(webp, np.uint8)[None]  # one row is what OpenCV insists on
    try:
        found, animation = cv2.imdecodeanimation(encoded, 0, max(1, most))
    except cv2.error:
        return (), ()
    return (animation.frames, list(animation.durations)) if found else ((), ())


def _turned(picture: NDArray[np.generic], orientation: int) -> NDArray[np.generic]:
    """The picture [h, w, …] upright, by Exif's orientation: 5 to 8 lie on their side."""
    if 5 <= orientation <= 8:
        picture = picture.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


def _is_read_unchanged(data: bytes, kind: Kind) -> bool:
    """Whether it may be transparent, or is made of floats: OpenCV would leave out either."""
    if kind == "PNG":
        return data[25:26] in (b"\x04", b"\x06") or b"tRNS" in _before_pixels(data)
    if kind == "WebP":
        return (data[12:16] == b"VP8X" and bool(data[20] & 0x10)) or data[12:16] == b"VP8L"
    if kind == "TIFF":
        extra, sample_format = _tags(data, 338, 339)
        return extra in (_ASSOCIATED, _UNASSOCIATED) or sample_format in (_SIGNED, _FLOAT)
    return kind in ("GIF", "AVIF")


def _before_pixels(data: bytes) -> bytes:
    return data[: max(0, data.find(b"IDAT"))]


def _straight(picture: NDArray[np.generic], tiff: bytes) -> NDArray[np.generic] | None:
    """Its colours as they are before its alpha, by which they may be multiplied already.

    None for signed integers, which do not tell what is black and what is white.
    """
    if picture.dtype.kind == "i":
        return None
    is_multiplied = picture.dtype == np.uint8 or _tags(tiff, 338)[0] == _ASSOCIATED
    if picture.ndim < 3 or picture.shape[2] < 4 or not is_multiplied:
        return picture
    most = {1: 255.0, 2: 65_535.0}.get(picture.itemsize, 1.0)  # larger ones are floats
    for rows in strips(picture):
        alpha = np.asarray(picture[rows, :, 3:], np.float32) / most
        colours = picture[rows, :, :3] / np.maximum(alpha, 1 / most)
        picture[rows, :, :3] = np.minimum(colours, most)
    return picture


def rgb(picture: NDArray[np.generic]) -> Bytes:
    """Grey, BGR or BGRA of 8 or 16 bits or floats as RGB of 8."""
    values = _bytes(picture)
    if values.ndim == 2 or values.shape[2] == 1:
        return np.asarray(cv2.cvtColor(values, cv2.COLOR_GRAY2RGB), np.uint8)
    if values.shape[2] == 3:
        return np.asarray(cv2.cvtColor(values, cv2.COLOR_BGR2RGB), np.uint8)
    return on_paper(np.asarray(cv2.cvtColor(values, cv2.COLOR_BGRA2RGB), np.uint8), values[..., 3])


def _bytes(picture: NDArray[np.generic]) -> Bytes:
    if picture.dtype == np.uint16:
        return np.asarray(picture >> 8, np.uint8)  # type: ignore[operator]
    if picture.dtype == np.uint8:
        return np.asarray(picture, np.uint8)
    if not np.isfinite(picture).all():
        raise Unusable("the picture holds values that are no numbers (NaN or infinite)")
    picture = np.atleast_3d(picture)
    white = max(1.0, float(picture[..., :3].max()))
    values = np.empty(picture.shape, np.uint8)
    for rows in strips(picture):
        light = np.array(picture[rows], np.float32)
        light[..., :3] /= white
        values[rows] = np.rint(255 * np.clip(light, 0, 1))
    return values


def on_paper(ink: Bytes, alpha: Bytes) -> Bytes:
    """The picture over white; over black where what is drawn is light, or it would vanish."""
    if alpha.min() == 255:
        return ink
    shown = np.empty_like(ink)
    drawn = 0.0
    for rows in strips(ink):
        amount = ink[rows].astype(np.float32) @ np.ones(3, np.float32)
        drawn += float(np.vdot(amount, alpha[rows].astype(np.float32)))
    paper = np.float32(0 if drawn > 127.5 * 3 * float(alpha.sum()) else 255)
    for rows in strips(ink):
        mixed = ink[rows] - paper
        mixed *= alpha[rows, :, None].astype(np.float32) / 255
        shown[rows] = np.rint(mixed + paper)
    return shown


def strips(picture: NDArray[np.generic]) -> list[slice]:
    """Its rows, a few at a time: floats of a whole picture would take more than it may."""
    return [slice(top, top + _ROWS) for top in range(0, len(picture), _ROWS)]
