"""What decoding gives: sounds, pictures and clips, the limits they keep to, and the errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


class MediaError(ValueError):
    """A file that cannot be used; `detail` says to its sender what is wrong with it."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class UnknownFormat(MediaError):
    """Not a kind of file that is read here (HTTP 415)."""


class Unusable(MediaError):
    """A known kind of file, but empty, damaged, or without what is needed (HTTP 422)."""


class TooLarge(MediaError):
    """Longer, larger or more than the limits allow (HTTP 413)."""


#: A clip may exceed its longest duration by this much: encoders pad the last block of sound.
SLACK_S = 0.25


@dataclass(frozen=True)
class Limits:
    """What one file may cost. All are checked against what is decoded, never trusted to headers.

    - `max_duration_s`: longest clip or sound, in seconds.
    - `max_pixels`: largest single picture or video frame.
    - `max_total_pixels`: all pictures of one answer; more are shrunk until they fit.
    - `max_composed_pixels`: of a file whose pictures are composed one after the other, width x
      height x pictures of a GIF or APNG; width x height x scans of a JPEG.
    - `max_inflated_bytes`: what texts, profiles and surplus pixel data of a PNG inflate to; by
      how much the packets of a container may be larger than the file.
    - `max_decoded_pixels`: of a video, width x height x frames that have to be decoded for the
      pictures that are wanted.
    - `max_demux_cpu_s`: CPU time, in seconds, to find a file's headers and packets.
    - `max_frames`: most pictures in one answer.
    - `max_channels`, `min_sample_rate`, `max_sample_rate` (Hz), `max_samples` (over all
      channels): of a sound.
    - `threads`: that may decode one video at a time.
    """

    max_duration_s: float = 60.0
    max_pixels: int = 33_177_600
    max_total_pixels: int = 132_710_400
    max_composed_pixels: int = 1_000_000_000
    max_inflated_bytes: int = 16 * 1024 * 1024
    max_decoded_pixels: int = 16_000_000_000
    max_demux_cpu_s: float = 0.4
    max_frames: int = 256
    max_channels: int = 16
    min_sample_rate: int = 1000
    max_sample_rate: int = 384_000
    max_samples: int = 50_000_000
    threads: int = 1

    def in_all(self, per_minute: int) -> int:
        """So many for a file of the longest duration; at least those of a minute."""
        return round(per_minute * max(1.0, self.max_duration_s / 60))


@dataclass(frozen=True)
class Sound:
    """`samples` float32 [channels, n], finite, nominally in [-1, 1], at `sample_rate` Hz.

    It is number `track` (the first is 1) of the file's `tracks` sound tracks. `complete` is False
    where a part of the file could not be decoded, so that a second reader may find more.
    """

    samples: NDArray[np.float32]
    sample_rate: int
    track: int = 1
    tracks: int = 1
    complete: bool = True

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return float(self.samples.shape[1] / self.sample_rate)


@dataclass(frozen=True)
class Pictures:
    """`frames` uint8 RGB [h, w, 3], upright, in order; `times_s` seconds from the first frame.

    Pictures that came one by one have no times: theirs are 0, 1, 2, …
    """

    frames: tuple[NDArray[np.uint8], ...]
    times_s: tuple[float, ...]


@dataclass(frozen=True)
class Clip:
    """What could be read of a clip; where a part is None, its problem says why."""

    sound: Sound | None
    pictures: Pictures | None
    sound_problem: str | None = None
    pictures_problem: str | None = None
