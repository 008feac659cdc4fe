"""Decode files: containers by PyAV, sound files by soundfile, pictures by OpenCV.

Files are decoded in memory and within `Limits`. For any bytes, these functions return or raise a
`MediaError`. They use at most `Limits.threads` threads and keep no state between calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from model.media.audio.recording import ReadRequest, read_recording
from model.media.headers import png
from model.media.picture import animation, header, picture_file
from model.media.types import (
    Clip,
    Limits,
    MediaError,
    Pictures,
    Sound,
    TooLarge,
    UnknownFormat,
    Unusable,
)

__all__ = [
    "Clip",
    "Limits",
    "MediaError",
    "Pictures",
    "Sound",
    "TooLarge",
    "UnknownFormat",
    "Unusable",
    "read_clip",
    "read_picture",
    "read_pictures",
    "read_sound",
]

_CLIPS = "mp4, mov, webm, mkv, avi or flv"
_SOUNDS = "wav, flac, ogg, mp3 or m4a"
_DEFAULTS = Limits()


def read_clip(
    data: bytes,
    frames: int,
    *,
    sound: bool = True,
    pictures: bool = True,
    span: tuple[float, float] | None = None,
    limits: Limits = _DEFAULTS,
) -> Clip:
    """Decode the sound of a clip (if `sound`) and `frames` of its pictures (if `pictures`).

    The pictures are those shown at the centres of `frames` equal parts of the clip's duration.
    `span` = (start, end), in seconds from its beginning, reads that part as if it were a clip. A
    requested part that cannot be decoded is None, and its problem says why. Raises UnknownFormat,
    TooLarge, and Unusable if no requested part can be decoded.
    """
    _check_count(frames, limits)
    with _as_media_errors(data):
        request = ReadRequest(sound, frames if pictures else 0, limits, _CLIPS, span)
        clip = _read_clip(data, request)
    if clip.sound is not None and span is not None:
        clip = replace(clip, sound=_cut(clip.sound, span))
    if clip.sound is None and clip.pictures is None:
        problems = [p for p in (clip.pictures_problem, clip.sound_problem) if p]
        raise Unusable("; ".join(problems) or "neither sound nor pictures were requested")
    return clip


def read_sound(
    data: bytes, *, span: tuple[float, float] | None = None, limits: Limits = _DEFAULTS
) -> Sound:
    """Decode the sound of a sound file or a container, with its channels and sample rate.

    `span` = (start, end), in seconds from its beginning, reads that part alone.

    Raises UnknownFormat, TooLarge and Unusable (no sound, no samples, NaN, damaged).
    """
    with _as_media_errors(data):
        clip = read_recording(data, ReadRequest(True, 0, limits, _SOUNDS))
    if clip.sound is None:
        raise Unusable(clip.sound_problem or "there is no sound in it")
    return clip.sound if span is None else _cut(clip.sound, span)


def _cut(sound: Sound, span: tuple[float, float]) -> Sound:
    """Return the part of a sound from start to end (s). Raises Unusable where that is empty."""
    start, end = (round(second * sound.sample_rate) for second in span)
    samples = sound.samples[:, start:end]
    if not samples.shape[1]:
        raise Unusable(f"its sound lasts {sound.duration_s:.2f} s, and {span[0]:g} s is later")
    return replace(sound, samples=samples)


def read_picture(data: bytes, *, limits: Limits = _DEFAULTS) -> NDArray[np.uint8]:
    """Decode a picture file to uint8 RGB [h, w, 3], upright.

    Raises UnknownFormat, TooLarge and Unusable.
    """
    with _as_media_errors(data):
        return picture_file.decode_picture(data, limits)


def read_pictures(datas: Sequence[bytes], *, limits: Limits = _DEFAULTS) -> Pictures:
    """Decode picture files in order. Errors name the number of the picture, from 1."""
    _check_count(len(datas), limits)
    max_pixels = limits.max_total_pixels // len(datas)
    frames = []
    for number, data in enumerate(datas, 1):
        try:
            frames.append(picture_file.shrink(read_picture(data, limits=limits), max_pixels))
        except MediaError as error:
            if len(datas) == 1:
                raise
            raise error.within(f"picture {number} of {len(datas)}") from error
    return Pictures(tuple(frames), tuple(float(index) for index in range(len(frames))))


def _check_count(frames: int, limits: Limits) -> None:
    if frames < 1:
        raise Unusable("0 pictures: at least one is needed")
    if frames > limits.max_frames:
        detail = f"{frames} pictures; at most {limits.max_frames} are accepted"
        raise TooLarge(detail, limit="max_frames")


@contextmanager
def _as_media_errors(data: bytes) -> Iterator[None]:
    """Convert every exception of a decoder to a MediaError. Raises Unusable for empty `data`."""
    if not data:
        raise Unusable("the file is empty")
    try:
        yield
    except MediaError:
        raise
    except MemoryError as error:
        raise TooLarge("there is not enough memory to decode the file") from error
    except Exception as error:
        raise Unusable(f"the file is damaged: {type(error).__name__} in decoding it") from error


def _read_clip(data: bytes, request: ReadRequest) -> Clip:
    limits = request.limits
    picture_format = header.detect_format(data)
    if picture_format is None or header.may_be_animated(data, picture_format):
        if picture_format == "PNG":
            width, height = png.read_header_size(data)  # the file may be truncated
            header.check_size(width, height, limits)
            animation.check_composed_pixels(png.count_frames(data), width, height, limits)
            png.check_inflated(data, limits)
        return read_recording(data, request)
    sound_problem = None
    if request.sound:
        article = "an" if picture_format == "AVIF" else "a"
        sound_problem = f"{article} {picture_format} picture has no sound"
    if not request.frames:
        return Clip(None, None, sound_problem, None)
    if animation.is_animated_webp(data):
        pictures = animation.read_webp_animation(data, request.frames, limits)
        return Clip(None, pictures, sound_problem, None)
    picture = picture_file.decode_picture(data, limits)
    picture = picture_file.shrink(picture, limits.max_total_pixels)
    return Clip(None, Pictures((picture,), (0.0,)), sound_problem, None)
