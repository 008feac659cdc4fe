"""What an animation may cost; and animated WebP by OpenCV: FFmpeg does not read it."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from model.media.picture import picture_file
from model.media.types import SLACK_S, Limits, Pictures, TooLarge, Unusable

#: FFmpeg's codecs that compose each picture on a canvas, whatever part of it a packet changes.
COMPOSED = ("gif", "apng")


def check_composed(pictures: int, width: int, height: int, limits: Limits) -> None:
    """Raise TooLarge where all pictures have more than `limits.max_composed_pixels` pixels."""
    if pictures * width * height > limits.max_composed_pixels:
        raise TooLarge(
            f"it has {pictures} pictures of {width} x {height} pixels; width x height x pictures "
            f"may be at most {limits.max_composed_pixels} pixels"
        )


def is_animated(data: bytes) -> bool:
    """Whether this is a WebP that says it moves."""
    return (
        picture_file.kind_of(data) == "WebP"
        and data[12:16] == b"VP8X"
        and bool(int.from_bytes(data[20:21]) & 2)
    )


def read_animation(data: bytes, frames: int, limits: Limits) -> Pictures:
    """`frames` pictures at the centres of equal parts of its time.

    Raises TooLarge (OpenCV decodes all of its pictures, so all of them count) and Unusable.
    """
    width, height = picture_file.size(data, "WebP", limits)
    count = data.count(b"ANMF")
    if count * width * height > limits.max_total_pixels:
        raise TooLarge(
            f"the WebP has {count} pictures of {width} x {height} pixels; "
            f"at most {limits.max_total_pixels} in all are accepted"
        )
    film, durations = picture_file.film(data, count)
    if not film:
        raise Unusable("this WebP picture is damaged or cut short: it cannot be decoded")
    ends = np.cumsum(np.maximum(durations, 1)) / 1000
    if ends[-1] > limits.max_duration_s + SLACK_S:
        raise TooLarge(f"its pictures last longer than {limits.max_duration_s:g} s")
    centres = [(part + 0.5) / frames * ends[-1] for part in range(frames)]
    shown = [min(bisect_right(ends, at), len(ends) - 1) for at in centres]
    largest = limits.max_total_pixels // len(set(shown))
    kept = {at: picture_file.shrunk(picture_file.rgb(film[at]), largest) for at in set(shown)}
    times = [0.0, *ends[:-1].tolist()]
    return Pictures(tuple(kept[at] for at in shown), tuple(times[at] for at in shown))
