"""Decoded events."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.media.types import SLACK_S, Limits, TooLarge, Unusable

Integers = NDArray[np.int64]

#: Largest side of a sensor in pixels, and number of channels of a cochlea.
MAX_SIDE, MAX_CHANNELS = 4096, 4096
#: The formats of a camera's events that are read, for messages.
CAMERA_FORMATS = (
    ".npz (x, y, t, p), AEDAT 4, AER-DAT 1.0 and 2.0 of a DVS128, EVT 2.0 and 3.0 (.raw), "
    "N-MNIST (.bin, .bs2)"
)


@dataclass(frozen=True)
class CameraEvents:
    """Events of an event camera, in order of time.

    - `x`, `y`: int64 [n], column and row of the pixel, from 0.
    - `time_us`: int64 [n], microseconds.
    - `is_on`: bool [n], whether the pixel became brighter.
    - `sensor`: height and width in pixels; None where the file does not say it.
    """

    x: Integers
    y: Integers
    time_us: Integers
    is_on: NDArray[np.bool_]
    sensor: tuple[int, int] | None = None

    @property
    def duration_s(self) -> float:
        """Seconds from the first to the last event."""
        return _duration_s(self.time_us)


@dataclass(frozen=True)
class ChannelEvents:
    """Events of a cochlea, in order of time: `channel` int64 [n] from 0, `time_us` int64 [n]."""

    channel: Integers
    time_us: Integers

    @property
    def duration_s(self) -> float:
        """Seconds from the first to the last event."""
        return _duration_s(self.time_us)


def _duration_s(time_us: Integers) -> float:
    return float(time_us[-1] - time_us[0]) / 1e6 if len(time_us) else 0.0


def camera_events(
    x: Integers, y: Integers, time_us: Integers, is_on: NDArray[np.bool_],
    sensor: tuple[int, int] | None, limits: Limits,
) -> CameraEvents:  # fmt: skip
    """Sort events by time, and check them. Raises MediaError."""
    if sensor is not None and not 1 <= min(sensor) <= max(sensor) <= MAX_SIDE:
        raise Unusable(
            f"it is of a sensor of {sensor[1]} x {sensor[0]} pixels; accepted are sides of 1 to "
            f"{MAX_SIDE}"
        )
    order = _order(time_us, limits)
    x, y, time_us, is_on = x[order], y[order], time_us[order], is_on[order]
    if len(x):
        height, width = sensor or (MAX_SIDE, MAX_SIDE)
        if min(x.min(), y.min()) < 0 or x.max() >= width or y.max() >= height:
            raise Unusable(
                f"it has events from ({x.min()}, {y.min()}) to ({x.max()}, {y.max()}), outside "
                f"the sensor of {width} x {height} pixels"
            )
    return CameraEvents(x, y, time_us, is_on, sensor)


def channel_events(channel: Integers, time_us: Integers, limits: Limits) -> ChannelEvents:
    """Sort events by time, and check them. Raises MediaError."""
    order = _order(time_us, limits)
    channel, time_us = channel[order], time_us[order]
    if len(channel) and (channel.min() < 0 or channel.max() >= MAX_CHANNELS):
        raise Unusable(
            f"it has channels from {channel.min()} to {channel.max()}; accepted are 0 to "
            f"{MAX_CHANNELS - 1}"
        )
    return ChannelEvents(channel, time_us)


def unwrap(time: Integers, bits: int) -> Integers:
    """Undo the overflow of a counter of this many bits: it falls by more than half its range."""
    period = 1 << bits
    steps = np.diff(time, prepend=time[:1])
    overflows: Integers = np.cumsum(steps < -(period // 2)) - np.cumsum(steps > period // 2)
    return np.asarray(time + overflows * period, np.int64)


def check_count(count: int, limits: Limits) -> None:
    """Raise TooLarge for more events than are accepted."""
    if count > limits.max_events:
        detail = f"it has {count} events; at most {limits.max_events} are accepted"
        raise TooLarge(detail, limit="max_events")


def _order(time_us: Integers, limits: Limits) -> Integers | slice:
    """Return what sorts the events by time. Raises TooLarge where there are too many, or they
    last too long."""
    check_count(len(time_us), limits)
    order: Integers | slice = slice(None)
    if len(time_us) and (np.diff(time_us) < 0).any():
        order = np.argsort(time_us, kind="stable")
    seconds = (float(time_us.max()) - float(time_us.min())) / 1e6 if len(time_us) else 0.0
    if seconds > limits.max_duration_s + SLACK_S:
        raise TooLarge(
            f"its events last {seconds:.1f} s; at most {limits.max_duration_s:g} s are accepted",
            limit="max_duration_s",
        )
    return order
