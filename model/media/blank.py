"""Detect silent sounds and blank pictures."""

from __future__ import annotations

import numpy as np

from model.media.types import Pictures, Sound

#: A sound is silent if the peak-to-peak range of every channel is at most this: two steps of
#: 16 bits, that is ±1 step (-90 dBFS). Dithered 16-bit silence reaches it. Silence coded as AC-3,
#: the noisiest codec, decodes to a quarter of it.
SILENCE_RANGE = 2.0**-14
#: A picture is blank if the range of each of its three channels is at most this (of 255).
BLANK_RANGE = 2
#: Stride of the pixels that are checked first. Most pictures are decided by them.
_STRIDE = 16


def silence_reason(sound: Sound) -> str | None:
    """Return why a sound counts as silent; None if it is not silent."""
    if any(float(np.ptp(channel)) > SILENCE_RANGE for channel in sound.samples):
        return None
    return "the sound is silent (nothing in it exceeds -90 dBFS)"


def blank_reason(pictures: Pictures) -> str | None:
    """Return why pictures count as blank; None if at least one of them is not blank."""
    for frame in pictures.frames:
        for pixels in (frame[::_STRIDE, ::_STRIDE], frame):
            flat = pixels.reshape(-1, 3)
            if (flat.max(axis=0).astype(int) - flat.min(axis=0)).max() > BLANK_RANGE:
                return None
    if len(pictures.frames) == 1:
        return "the picture is blank (it is one colour)"
    return "the pictures are blank (each is one colour)"
