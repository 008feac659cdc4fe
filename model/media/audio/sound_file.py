"""Read sound files by soundfile, in memory and within limits."""

from __future__ import annotations

import io

import numpy as np
import soundfile

from model.arrays import Float32Array
from model.media.audio.track import NOT_FINITE, check_sound
from model.media.bounded_input import BoundedInput
from model.media.types import Limits, Sound, Unusable

#: Samples of each channel per read. Memory is allocated by decoded samples, not by the header, and
#: a damaged block loses at most this many.
_BLOCK = 2048


class _SoundFileInput(BoundedInput):
    """A file that tolerates seeks to before its beginning, as a damaged header causes."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Seek as BytesIO, but stay at the current position if the target is invalid."""
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):  # soundfile would print a traceback
            return self.tell()


def read_sound_file(data: bytes, limits: Limits) -> Sound | None:
    """Decode a sound file up to its end or to damage; None if nothing can be decoded.

    Raises TooLarge (also if opening takes too much CPU time) and Unusable (sample rate, NaN).
    """
    blocks: list[Float32Array] = []  # [n, channels]
    length = rate = 0
    complete = False
    try:
        source = _SoundFileInput(data, limits.max_demux_cpu_s)
        with source.measure():
            opened = soundfile.SoundFile(source)
        with opened as file:
            # soundfile would seek behind each block, which fails in FLAC of unknown length.
            file.seekable = lambda: False
            rate = file.samplerate
            check_sound(rate, file.channels, 0, limits)
            while (block := file.read(_BLOCK, dtype="float32", always_2d=True)).shape[0]:
                blocks.append(block)
                length += block.shape[0]
                check_sound(rate, file.channels, length, limits)
            complete = length >= file.frames
    except soundfile.SoundFileError:
        pass  # not a sound file, or damaged: samples before the damage count
    if not length:
        return None
    samples = np.ascontiguousarray(np.concatenate(blocks).T)
    if not np.isfinite(samples).all():
        raise Unusable(NOT_FINITE)
    return Sound(samples, rate, complete=complete)
