"""Sound files by soundfile, in memory, within limits."""

from __future__ import annotations

import io

import numpy as np
import soundfile
from numpy.typing import NDArray

from model.media.audio.track import NOT_NUMBERS, check_sound
from model.media.bounded_input import BoundedInput
from model.media.types import Limits, Sound, Unusable

#: Samples of each channel that are read at a time: nothing is allocated from a header, and where
#: a block fails, no more than this is lost.
_BLOCK = 2048


class _File(BoundedInput):
    """A file whose damaged header may send its reader to before the beginning."""

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """As BytesIO, but it stays where it is when asked for what is not there."""
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):  # soundfile would print a traceback
            return self.tell()


def read_sound_file(data: bytes, limits: Limits) -> Sound | None:
    """The sound as soundfile reads it, as far as it can; None where it reads nothing.

    Raises TooLarge (also where opening it takes too much time) and Unusable (sample rate, NaN).
    """
    pieces: list[NDArray[np.float32]] = []
    length = rate = 0
    complete = False
    try:
        source = _File(data, limits.max_demux_cpu_s)
        with source.measured():
            opened = soundfile.SoundFile(source)
        with opened as file:
            # soundfile would seek behind each block, which fails in FLAC of unknown length.
            file.seekable = lambda: False
            rate = file.samplerate
            check_sound(rate, file.channels, 0, limits)
            while (piece := file.read(_BLOCK, dtype="float32", always_2d=True)).shape[0]:
                pieces.append(piece)
                length += piece.shape[0]
                check_sound(rate, file.channels, length, limits)
            complete = length >= file.frames
    except soundfile.SoundFileError:
        pass  # not a sound file, or damaged: what came before the damage counts
    if not length:
        return None
    samples = np.ascontiguousarray(np.concatenate(pieces).T)
    if not np.isfinite(samples).all():
        raise Unusable(NOT_NUMBERS)
    return Sound(samples, rate, complete=complete)
