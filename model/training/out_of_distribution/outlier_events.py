"""Events of no class: an event camera that sees noise, flicker or a moving edge, and a cochlea that
hears no word."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from model.media.events.types import CameraEvents, ChannelEvents
from model.media.types import Sound
from model.preprocess.cochlea import sound_to_events
from model.preprocess.specs import ChannelEventSpec, EventFrameSpec

#: Sensor (height, width) where the preprocessing names none: that of N-MNIST.
SENSOR = (34, 34)
#: Milliseconds of a recording, and the fewest and most events of a camera and of a cochlea.
_DURATION_MS, _CAMERA, _COCHLEA = (100, 600), (300, 12_000), (60, 4000)
#: Share of a cochlea's recordings that are of random channels, not of a sound.
_RANDOM_CHANNELS = 0.4

Pixels = tuple[NDArray[np.int64], NDArray[np.int64]]


def draw_camera_events(spec: EventFrameSpec, rng: Generator) -> CameraEvents:
    """Draw a recording of no class: of random pixels, a few hot ones, a flickering light or a
    moving edge, with noise."""
    height, width = sensor = spec.sensor or SENSOR
    times = _times(_CAMERA, rng)
    place = _PLACES[int(rng.integers(len(_PLACES)))]
    y, x = place(times, sensor, rng)
    noisy = rng.random(len(times)) < rng.uniform(0, 0.5)
    y = np.where(noisy, rng.integers(height, size=len(times)), y)
    x = np.where(noisy, rng.integers(width, size=len(times)), x)
    is_on = rng.random(len(times)) < rng.uniform(0.2, 0.8)
    return CameraEvents(x, y, times, is_on, sensor)


def draw_channel_events(
    spec: ChannelEventSpec, sound: Callable[[], Sound], rng: Generator
) -> ChannelEvents:
    """Draw a recording of no class: of random channels, or of a sound, of which a cochlea hears
    something."""
    if rng.random() >= _RANDOM_CHANNELS:
        heard = sound_to_events(sound())
        if len(heard.channel) and heard.channel.max() < spec.bands:
            return heard
    times = _times(_COCHLEA, rng)
    lowest, highest = np.sort(rng.integers(spec.bands, size=2))
    return ChannelEvents(rng.integers(lowest, highest + 1, size=len(times)), times)


def _times(count: tuple[int, int], rng: Generator) -> NDArray[np.int64]:
    """Draw times in order, in microseconds; their number is log-uniform."""
    number = round(float(np.exp(rng.uniform(*np.log(count)))))
    return np.sort(rng.integers(round(1000 * rng.uniform(*_DURATION_MS)), size=number))


def _anywhere(times: NDArray[np.int64], sensor: tuple[int, int], rng: Generator) -> Pixels:
    return (rng.integers(sensor[0], size=len(times)), rng.integers(sensor[1], size=len(times)))


def _hot_pixels(times: NDArray[np.int64], sensor: tuple[int, int], rng: Generator) -> Pixels:
    """A few pixels that fire all the time."""
    count = int(rng.integers(1, 60))
    chosen = rng.integers(count, size=len(times))
    return rng.integers(sensor[0], size=count)[chosen], rng.integers(sensor[1], size=count)[chosen]


def _flicker(times: NDArray[np.int64], sensor: tuple[int, int], rng: Generator) -> Pixels:
    """A light that fills a rectangle."""
    (top, bottom), (left, right) = (np.sort(rng.integers(side, size=2)) for side in sensor)
    return (
        rng.integers(top, bottom + 1, size=len(times)),
        rng.integers(left, right + 1, size=len(times)),
    )


def _edge(times: NDArray[np.int64], sensor: tuple[int, int], rng: Generator) -> Pixels:
    """A straight edge that crosses the sensor, in any direction."""
    angle, speed = rng.uniform(0, np.pi), rng.uniform(0.3, 2)
    along = rng.uniform(-1, 1, len(times))
    across = speed * (times / (times[-1] + 1) - 0.5) + rng.normal(0, 0.03, len(times))
    y = 0.5 + along * np.sin(angle) + across * np.cos(angle)
    x = 0.5 + along * np.cos(angle) - across * np.sin(angle)
    rows, columns = np.floor(y * sensor[0]), np.floor(x * sensor[1])
    return (
        np.clip(rows, 0, sensor[0] - 1).astype(np.int64),
        np.clip(columns, 0, sensor[1] - 1).astype(np.int64),
    )


_PLACES: tuple[Callable[[NDArray[np.int64], tuple[int, int], Generator], Pixels], ...] = (
    _anywhere,
    _hot_pixels,
    _flicker,
    _edge,
)
