"""Bytes to arrays: containers by PyAV, sound files by soundfile, pictures by OpenCV.

Everything stays in memory and within `Limits`; for any bytes at all, these functions return or
raise a `MediaError`. They use as many threads as `Limits` says, and keep nothing between calls.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import soundfile
from numpy.typing import NDArray

from model import animation, container, picture
from model.audio import check_sound
from model.clip import (
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
#: How sound files begin that may have a film or cover art beside the sound: Ogg, FLAC and MP3.
_MAY_HAVE_PICTURES = (b"OggS", b"fLaC", b"ID3", b"\xff")
_OGG_BEGINS = b"OggS\0\x02"
#: Samples of each channel that are read at a time: nothing is allocated from a header.
_BLOCK = 65_536
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
        clip = _clip(data, frames, sound, pictures, limits)
    if clip.sound is None and clip.pictures is None:
        problems = [p for p in (clip.pictures_problem, clip.sound_problem) if p]
        raise Unusable("; ".join(problems) or "neither sound nor pictures were asked for")
    return clip


def read_sound(data: bytes, *, limits: Limits = _DEFAULTS) -> Sound:
    """The sound in a sound file or a container, every channel at its own rate.

    Raises UnknownFormat, TooLarge and Unusable (no sound, no samples, NaN, damaged).
    """
    with _only_media_errors(data):
        # Of Ogg files that were put together soundfile reads the first alone.
        heard = _sound_file(data, limits) if data.count(_OGG_BEGINS) < 2 else None
        if heard is not None:
            return heard
        clip = container.read_container(
            data, 1, sound=True, pictures=False, limits=limits, accepted=_SOUNDS
        )
    if clip.sound is None:
        raise Unusable(clip.sound_problem or "there is no sound in it")
    return clip.sound


def read_picture(data: bytes, *, limits: Limits = _DEFAULTS) -> NDArray[np.uint8]:
    """A picture file, uint8 RGB [h, w, 3], upright. Raises UnknownFormat, TooLarge, Unusable."""
    with _only_media_errors(data):
        return picture.decoded(data, limits)


def read_pictures(datas: Sequence[bytes], *, limits: Limits = _DEFAULTS) -> Pictures:
    """Picture files in their order; errors say which of them (the first is 1)."""
    _check_count(len(datas), limits)
    largest = limits.max_total_pixels // len(datas)
    frames = []
    for number, data in enumerate(datas, 1):
        try:
            frames.append(picture.shrunk(read_picture(data, limits=limits), largest))
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


def _clip(data: bytes, frames: int, sound: bool, pictures: bool, limits: Limits) -> Clip:
    kind = picture.kind_of(data)
    heard = None
    if kind is None and not data.startswith(_MAY_HAVE_PICTURES):
        heard = _sound_file(data, limits)  # it knows more kinds of sound than PyAV, and better
    if heard is not None:
        return Clip(heard if sound else None, None, None, "there is no picture in it")
    if kind is None or picture.may_move(data, kind):
        return container.read_container(
            data, frames, sound=sound, pictures=pictures, limits=limits, accepted=_CLIPS
        )
    no_sound = f"{'an' if kind == 'AVIF' else 'a'} {kind} picture has no sound" if sound else None
    if not pictures:
        return Clip(None, None, no_sound, None)
    if animation.is_animated(data):
        return Clip(None, animation.read_animation(data, frames, limits), no_sound, None)
    still = picture.shrunk(picture.decoded(data, limits), limits.max_total_pixels)
    return Clip(None, Pictures((still,), (0.0,)), no_sound, None)


class _File(io.BytesIO):
    """A file whose damaged header may send its reader to before the beginning."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """As BytesIO, but it stays where it is when asked for what is not there."""
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):  # soundfile would print a traceback
            return self.tell()


def _sound_file(data: bytes, limits: Limits) -> Sound | None:
    """The sound as soundfile reads it; None where it reads nothing, and PyAV may."""
    pieces: list[NDArray[np.float32]] = []
    length = rate = 0
    try:
        with soundfile.SoundFile(_File(data)) as file:
            rate = file.samplerate
            check_sound(rate, file.channels, 0, limits)
            while (piece := file.read(_BLOCK, dtype="float32", always_2d=True)).shape[0]:
                pieces.append(piece)
                length += piece.shape[0]
                check_sound(rate, file.channels, length, limits)
    except soundfile.SoundFileError:
        pass  # not a sound file, or damaged: what came before the damage counts
    if not length:
        return None
    samples = np.ascontiguousarray(np.concatenate(pieces).T)
    if not np.isfinite(samples).all():
        raise Unusable("its sound holds values that are no numbers (NaN or infinite)")
    return Sound(samples, rate)
