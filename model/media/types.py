"""Results of decoding (sounds, pictures, clips), its limits and its errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from model.media.events.types import CameraEvents, ChannelEvents
    from model.media.series import Series


class MediaError(ValueError):
    """A file cannot be used. `detail` is the message for the client; `file`: the file's number
    among several, from 0; `limit`: the field of Limits that it exceeds, one that is a setting
    of the service, with the same name."""

    def __init__(self, detail: str, file: int | None = None, limit: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.file = file
        self.limit = limit

    def within(self, name: str, file: int | None = None) -> Self:
        """Return this error with the name of the file, which is one of several."""
        return type(self)(f"{name}: {self.detail}", file, self.limit)


class UnknownFormat(MediaError):
    """The file's format is not supported (HTTP 415)."""


class Unusable(MediaError):
    """The format is supported, but the file is empty, damaged or lacks a stream (HTTP 422)."""


class TooLarge(MediaError):
    """The file exceeds a limit (HTTP 413)."""


#: Tolerance of the duration limit, in seconds: encoders pad the last block of sound.
SLACK_S = 0.25


@dataclass(frozen=True)
class Limits:
    """Limits of one file. Each is checked against decoded data, not against headers alone.

    - `max_duration_s`: duration of a clip or sound, in seconds.
    - `max_pixels`: pixels of one picture or video frame.
    - `max_total_pixels`: pixels of all returned pictures; larger ones are shrunk to fit.
    - `max_composed_pixels`: width x height x frames of a GIF or APNG, width x height x scans of
      a JPEG.
    - `max_inflated_bytes`: inflated bytes of a PNG's texts, profiles and surplus pixel data;
      bytes by which a container's packets may exceed the file.
    - `max_decoded_pixels`: width x height x frames of a video that have to be decoded.
    - `max_demux_cpu_s`: CPU time, in seconds, for opening and demuxing a file.
    - `max_frames`: number of returned pictures.
    - `max_frame_shift`: largest distance of a key frame of a video from the centre of a part at
      which it is returned in place of the frame shown there, as a share of the part, 0 to 0.5; 0:
      never. Nothing is refused by it.
    - `max_channels`, `min_sample_rate`, `max_sample_rate` (Hz), `max_samples` (over all
      channels): of a sound.
    - `max_events`: events of a camera or cochlea.
    - `max_series_values`: values of a series over time.
    - `threads`: number of threads that decode one video.
    """

    max_duration_s: float = 60.0
    max_pixels: int = 33_177_600
    max_total_pixels: int = 132_710_400
    max_composed_pixels: int = 1_000_000_000
    max_inflated_bytes: int = 16 * 1024 * 1024
    max_decoded_pixels: int = 16_000_000_000
    max_demux_cpu_s: float = 0.4
    max_frames: int = 256
    max_frame_shift: float = 0.0
    max_channels: int = 16
    min_sample_rate: int = 1000
    max_sample_rate: int = 384_000
    max_samples: int = 50_000_000
    max_events: int = 5_000_000
    max_series_values: int = 500_000
    threads: int = 1

    def scale_to_duration(self, per_minute: int) -> int:
        """Scale a limit per minute to `max_duration_s`, or to one minute if that is shorter."""
        return round(per_minute * max(1.0, self.max_duration_s / 60))


@dataclass(frozen=True)
class Sound:
    """A sound: `samples` float32 [channels, n], finite, nominally in [-1, 1].

    `sample_rate` is in Hz. `track` is the number (from 1) of the audio track in the file, of
    `tracks`. `complete` is False if a part of the file could not be decoded, so that another
    library may decode more.
    """

    samples: NDArray[np.float32]
    sample_rate: int
    track: int = 1
    tracks: int = 1
    complete: bool = True

    @property
    def duration_s(self) -> float:
        """Duration in seconds."""
        return float(self.samples.shape[1] / self.sample_rate)


@dataclass(frozen=True)
class Pictures:
    """Pictures: `frames` uint8 RGB [h, w, 3], upright, in order of time.

    `times_s` are in seconds from the first frame. Pictures from separate files have the times
    0, 1, 2, … `duration_s`: how long those of a video last, by their own lengths, whatever its
    sound; None for others.
    """

    frames: tuple[NDArray[np.uint8], ...]
    times_s: tuple[float, ...]
    duration_s: float | None = None


@dataclass(frozen=True)
class Clip:
    """The decoded parts of a clip. `sound_problem` and `pictures_problem` explain a None.

    `events` are those of event streams, and `series` those of streams of values over time, by the
    stream's name.
    """

    sound: Sound | None
    pictures: Pictures | None
    sound_problem: str | None = None
    pictures_problem: str | None = None
    events: Mapping[str, CameraEvents | ChannelEvents] = field(default_factory=dict)
    series: Mapping[str, Series] = field(default_factory=dict)
