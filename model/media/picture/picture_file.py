"""Decode picture files to RGB by OpenCV.

Only known formats within the limits reach OpenCV (model/media/picture/header.py). OpenCV fills in
missing parts of a damaged JPEG without reporting it, so FFmpeg must decode a JPEG without errors
first.
"""

from __future__ import annotations

from collections.abc import Sequence

import av
import numpy as np
from numpy.typing import NDArray

from model.arrays import UInt8Array
from model.media.headers import avif, jpeg, png, tiff
from model.media.opencv import cv2
from model.media.picture.header import (
    PictureFormat,
    detect_format,
    may_have_alpha_or_floats,
    read_size,
)
from model.media.picture.rgb import strips, to_rgb
from model.media.types import Limits, UnknownFormat, Unusable

ACCEPTED = "JPEG, PNG, WebP, AVIF, BMP, GIF or TIFF"
#: Variants of a format that OpenCV does not decode, for the error's text.
_UNSUPPORTED = {
    "TIFF": "; 8 and 16 bits and floats are supported, but not 16-bit CMYK, other integers, "
    "Zstandard or LZMA"
}


def decode_picture(data: bytes, limits: Limits) -> UInt8Array:
    """Decode a picture to uint8 RGB [h, w, 3], upright by its EXIF orientation.

    `model.media.picture.rgb.to_rgb` describes the treatment of transparency and floats. Raises
    UnknownFormat, TooLarge (before any pixel is decoded) and Unusable (damaged).
    """
    picture_format = detect_format(data)
    if picture_format == "HEIC":
        raise UnknownFormat(f"HEIC pictures are not supported; send {ACCEPTED}")
    if picture_format is None:
        raise UnknownFormat(f"this picture format is not supported; send {ACCEPTED}")
    width, height = read_size(data, picture_format, limits)
    if picture_format == "JPEG":
        jpeg.check_scans(data, width, height, limits)
    if picture_format == "PNG":
        png.check_inflated(data, limits)
    is_damaged = picture_format == "JPEG" and _is_damaged_jpeg(data, limits)
    picture = None if is_damaged else _decode_pixels(data, picture_format)
    if picture is None or not picture.size:
        problem = f"this {picture_format} picture is damaged or truncated: it cannot be decoded"
        raise Unusable(problem + _UNSUPPORTED.get(picture_format, ""))
    return to_rgb(picture)


def shrink(picture: UInt8Array, max_pixels: int) -> UInt8Array:
    """Return the picture, shrunk to at most `max_pixels` pixels if it has more."""
    height, width = picture.shape[:2]
    if height * width <= max_pixels:
        return picture
    scale = (max_pixels / (height * width)) ** 0.5
    size = max(1, int(width * scale)), max(1, int(height * scale))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def decode_webp_frames(
    webp: bytes, max_frames: int
) -> tuple[Sequence[NDArray[np.generic]], Sequence[int]]:
    """Decode the BGRA frames of an animated WebP, and their durations (ms); none if damaged."""
    encoded = np.frombuffer(webp, np.uint8)[None]  # OpenCV requires a matrix of one row
    try:
        is_decoded, animation = cv2.imdecodeanimation(encoded, 0, max(1, max_frames))
    except cv2.error:
        return (), ()
    return (animation.frames, list(animation.durations)) if is_decoded else ((), ())


def _is_damaged_jpeg(data: bytes, limits: Limits) -> bool:
    decoder = av.CodecContext.create("mjpeg", "r")
    decoder.thread_count = 1
    decoder.options = {"err_detect": "explode", "max_pixels": str(limits.max_pixels)}
    try:
        decoder.decode(av.Packet(data))
    except av.error.InvalidDataError:
        return True
    except av.error.FFmpegError:  # a variant that FFmpeg does not support, such as CMYK
        return False
    return False


def _decode_pixels(data: bytes, picture_format: PictureFormat) -> NDArray[np.generic] | None:
    """Decode to grey, BGR or BGRA, upright; None if the file is damaged."""
    encoded = np.frombuffer(data, np.uint8)
    try:
        if not may_have_alpha_or_floats(data, picture_format):
            return cv2.imdecode(encoded, cv2.IMREAD_COLOR)
        # With IMREAD_UNCHANGED, OpenCV applies the orientation of TIFF only.
        picture, kinds, metadata = cv2.imdecodeWithMetadata(encoded, flags=cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if picture is None:
        return None
    if picture_format == "TIFF":
        return _unpremultiply(picture, data)
    if picture_format == "AVIF":
        unused_bits = max(0, 8 * picture.itemsize - avif.bit_depth(data))
        return avif.apply_orientation(np.left_shift(picture, unused_bits), data)
    if cv2.IMAGE_METADATA_EXIF not in kinds:
        return picture
    exif = bytes(metadata[list(kinds).index(cv2.IMAGE_METADATA_EXIF)]).removeprefix(b"Exif\0\0")
    return _apply_orientation(picture, tiff.read_tags(exif, tiff.ORIENTATION)[0])


def _apply_orientation(picture: NDArray[np.generic], orientation: int) -> NDArray[np.generic]:
    """Turn a picture [h, w, …] upright. EXIF orientations 5 to 8 exchange rows and columns."""
    if 5 <= orientation <= 8:
        picture = picture.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        picture = picture[:, ::-1]
    if orientation in (3, 4, 7, 8):
        picture = picture[::-1]
    return np.ascontiguousarray(picture)


def _unpremultiply(picture: NDArray[np.generic], data: bytes) -> NDArray[np.generic] | None:
    """Divide the colours of a TIFF by its alpha if they are premultiplied.

    None for signed integers, which do not define black and white.
    """
    if picture.dtype.kind == "i":
        return None
    extra = tiff.read_tags(data, tiff.EXTRA_SAMPLES)[0]
    # OpenCV reads 8 bits through the RGBA interface of libtiff, which premultiplies.
    is_premultiplied = picture.dtype == np.uint8 or extra == tiff.ASSOCIATED_ALPHA
    if picture.ndim < 3 or picture.shape[2] < 4 or not is_premultiplied:
        return picture
    white = {1: 255.0, 2: 65_535.0}.get(picture.itemsize, 1.0)  # 1 for floats
    for rows in strips(picture):
        alpha = np.asarray(picture[rows, :, 3:], np.float32) / white
        colours = picture[rows, :, :3] / np.maximum(alpha, 1 / white)
        picture[rows, :, :3] = np.minimum(colours, white)
    return picture
