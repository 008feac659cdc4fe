"""Whether a sound or pictures carry anything: digital silence and blank pictures do not."""

from __future__ import annotations

import numpy as np

from model.media.types import Pictures, Sound

#: A sound is silent where the samples of every channel lie within this range, wherever that lies:
#: two steps of 16 bits, so one step around the middle (-90 dB of full scale). Dithered silence of
#: 16 bits reaches it; silence that was coded as AC-3, the noisiest, decodes to a quarter of it.
SILENCE_RANGE = 2.0**-14
#: A picture is blank where each of its three colours lies within this range, of 255.
BLANK_RANGE = 2
#: Rows and columns between the pixels that are looked at first: most pictures differ there.
_STRIDE = 16


def silence_reason(sound: Sound) -> str | None:
    """Why a sound carries nothing, or None where it carries something."""
    if any(float(np.ptp(channel)) > SILENCE_RANGE for channel in sound.samples):
        return None
    return "the sound is silent (nothing in it is louder than -90 dB of full scale)"


def blank_reason(pictures: Pictures) -> str | None:
    """Why pictures carry nothing, or None where at least one of them shows something."""
    for frame in pictures.frames:
        # A few pixels are enough to tell most pictures, however large.
        for pixels in (frame[::_STRIDE, ::_STRIDE], frame):
            flat = pixels.reshape(-1, 3)
            if (flat.max(axis=0).astype(int) - flat.min(axis=0)).max() > BLANK_RANGE:
                return None
    if len(pictures.frames) == 1:
        return "the picture is blank (all of it is one colour)"
    return "the pictures are blank (each is all one colour)"
