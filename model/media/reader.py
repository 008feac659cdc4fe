"""Bytes to arrays: containers by PyAV, sound files by soundfile, pictures by OpenCV.

Everything stays in memory and within `Limits`; for any bytes at all, these functions return or
raise a `MediaError`. They use as many threads as `Limits` says, and keep nothing between calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from model.media.audio.recording import Asked, read_recording
from model.media.headers import png
from model.media.picture import animation, picture_file
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
    limits: Limits = _DEFAULTS,
) -> Clip:
    """The sound of a clip and `frames` of its pictures, as far as they are asked for.

    The pictures are those shown at the centres of `frames` equal parts of the clip's time. A
    part that is asked for and missing is None, and its problem says why; raises UnknownFormat,
    TooLarge, and Unusable where nothing that was asked for can be read.
    """
    _check_count(frames, limits)
    with _only_media_errors(data):
        asked = Asked(sound, frames if pictures else 0, limits, _CLIPS)
        clip = _clip(data, asked)
    if clip.sound is None and clip.pictures is None:
        problems = [p for p in (clip.pictures_problem, clip.sound_problem) if p]
        raise Unusable("; ".join(problems) or "neither sound nor pictures were asked for")
    return clip


def read_sound(data: bytes, *, limits: Limits = _DEFAULTS) -> Sound:
    """The sound in a sound file or a container, every channel at its own rate.

    Raises UnknownFormat, TooLarge and Unusable (no sound, no samples, NaN, damaged).
    """
    with _only_media_errors(data):
        clip = read_recording(data, Asked(True, 0, limits, _SOUNDS))
    if clip.sound is None:
        raise Unusable(clip.sound_problem or "there is no sound in it")
    return clip.sound


def read_picture(data: bytes, *, limits: Limits = _DEFAULTS) -> NDArray[np.uint8]:
    """A picture file, uint8 RGB [h, w, 3], upright. Raises UnknownFormat, TooLarge, Unusable."""
    with _only_media_errors(data):
        return picture_file.decoded(data, limits)


def read_pictures(datas: Sequence[bytes], *, limits: Limits = _DEFAULTS) -> Pictures:
    """Picture files in their order; errors say which of them (the first is 1)."""
    _check_count(len(datas), limits)
    largest = limits.max_total_pixels // len(datas)
    frames = []
    for number, data in enumerate(datas, 1):
        try:
            frames.append(picture_file.shrunk(read_picture(data, limits=limits), largest))
        except MediaError as error:
            where = f"picture {number} of {len(datas)}: " if len(datas) > 1 else ""
            raise type(error)(where + error.detail) from error
    return Pictures(tuple(frames), tuple(float(index) for index in range(len(frames))))


def _check_count(frames: int, limits: Limits) -> None:
    if frames < 1:
        raise Unusable("0 pictures: at least one is needed")
    if frames > limits.max_frames:
        raise TooLarge(f"{frames} pictures; at most {limits.max_frames} are accepted")


@contextmanager
def _only_media_errors(data: bytes) -> Iterator[None]:
    """Whatever a decoder raises on these bytes becomes a MediaError."""
    if not data:
        raise Unusable("the file is empty")
    try:
        yield
    except MediaError:
        raise
    except MemoryError as error:
        raise TooLarge("the file needs more memory than there is") from error
    except Exception as error:
        raise Unusable(f"the file is damaged: {type(error).__name__} in decoding it") from error


def _clip(data: bytes, asked: Asked) -> Clip:
    kind = picture_file.kind_of(data)
    if kind is None or picture_file.may_move(data, kind):
        if kind == "PNG":
            width, height = png.header_size(data)  # it may be cut short
            picture_file.check_size(width, height, asked.limits)
            animation.check_composed(png.pictures(data), width, height, asked.limits)
            png.check_inflated(data, asked.limits)
        return read_recording(data, asked)
    no_sound = None
    if asked.sound:
        no_sound = f"{'an' if kind == 'AVIF' else 'a'} {kind} picture has no sound"
    if not asked.frames:
        return Clip(None, None, no_sound, None)
    if animation.is_animated(data):
        film = animation.read_animation(data, asked.frames, asked.limits)
        return Clip(None, film, no_sound, None)
    still = picture_file.shrunk(
        picture_file.decoded(data, asked.limits), asked.limits.max_total_pixels
    )
    return Clip(None, Pictures((still,), (0.0,)), no_sound, None)
