"""Augmentation of events: other places, sizes and slants, other times, lost and added events."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator

from model.media.events.types import CameraEvents, ChannelEvents, Integers

#: Greatest shift in pixels, rotation and shear in radians, and factor on the size (exp of this).
SHIFT, ROTATION, SHEAR, SIZE = 2.5, 0.18, 0.16, 0.14
#: Standard deviation of the elastic displacement in pixels, and cells of its coarse grid.
ELASTIC, ELASTIC_CELLS = 0.8, 5
#: Greatest share of the events that is lost, and of random events that is added.
LOST, ADDED = 0.3, 0.05
#: Greatest share of events of the wrong polarity.
FLIPPED = 0.04
#: Greatest jitter of the time in microseconds.
JITTER_US = 3000
#: Factor on the channel of a cochlea (exp of this), shift in channels, and share that is lost.
STRETCH, CHANNEL_SHIFT, CHANNEL_LOST = 0.2, 3.5, 0.3


def augment_camera(
    events: CameraEvents, sensor: tuple[int, int], difficulty: float, rng: Generator
) -> CameraEvents:
    """Return the events of a sensor (height, width), moved, distorted and noisy.

    `difficulty` scales the distortion, 0 to 1.
    """
    remaining = rng.random(len(events.x)) >= LOST * rng.random() * difficulty
    x, y, time_us, is_on = (
        events.x[remaining],
        events.y[remaining],
        events.time_us[remaining],
        events.is_on[remaining],
    )
    place = _distort(x, y, sensor, difficulty, rng)
    inside = ((place >= 0) & (place < np.array(sensor)[::-1, None])).all(0)
    x, y = place[:, inside]
    time_us, is_on = time_us[inside], is_on[inside]
    is_on = is_on ^ (rng.random(len(is_on)) < FLIPPED * rng.random() * difficulty)
    time_us = time_us + rng.integers(-JITTER_US, JITTER_US + 1, len(time_us))
    added = int(len(x) * ADDED * rng.random() * difficulty)
    if added:
        height, width = sensor
        x = np.append(x, rng.integers(0, width, added))
        y = np.append(y, rng.integers(0, height, added))
        time_us = np.append(time_us, rng.choice(time_us, added))
        is_on = np.append(is_on, rng.random(added) < 0.5)
    if not len(x):
        return events
    order = np.argsort(time_us, kind="stable")
    return CameraEvents(x[order], y[order], time_us[order], is_on[order], sensor)


def _distort(
    x: Integers, y: Integers, sensor: tuple[int, int], difficulty: float, rng: Generator
) -> Integers:
    """Return where the events of pixels are, whole pixels [2, n]: by a random affine map around the
    centre and a smooth displacement. Events lie anywhere in their pixel."""
    height, width = sensor
    angle, shear, size = (difficulty * rng.uniform(-1, 1, 3) * (ROTATION, SHEAR, SIZE)).tolist()
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scale = np.exp(size + difficulty * rng.uniform(-0.06, 0.06, 2))
    matrix = turn @ np.array([[1, shear], [0, 1]]) * scale
    centre = np.array([[width / 2], [height / 2]])
    shift = rng.uniform(-1, 1, (2, 1)) * SHIFT * difficulty
    coarse = rng.standard_normal((ELASTIC_CELLS, ELASTIC_CELLS, 2)) * ELASTIC * difficulty
    elastic = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)[y, x].T
    place = np.stack([x, y]) + rng.random((2, len(x)))
    moved = matrix @ (place - centre) + centre + shift + elastic
    return np.asarray(np.floor(moved), np.int64)


def augment_channels(events: ChannelEvents, bands: int, rng: Generator) -> ChannelEvents:
    """Return the events of another vocal tract (stretched over the channels), with lost ones and a
    channel or two silent."""
    stretch = np.exp(rng.uniform(-STRETCH, STRETCH))
    shift = rng.uniform(-CHANNEL_SHIFT, CHANNEL_SHIFT)
    place = (events.channel + rng.random(len(events.channel))) * stretch + shift
    channel = np.floor(place).astype(np.int64)
    remaining = (channel >= 0) & (channel < bands)
    remaining &= rng.random(len(channel)) >= CHANNEL_LOST * rng.random()
    if rng.random() < 0.3:
        first = int(rng.integers(0, bands))
        remaining &= (channel < first) | (channel > first + int(rng.integers(0, 4)))
    if not remaining.any():
        return events
    return ChannelEvents(channel[remaining], events.time_us[remaining])
