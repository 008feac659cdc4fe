"""Events in the format of N-MNIST (.bin, .bs2): five bytes an event, no header."""

from __future__ import annotations

import numpy as np

from model.media.events.types import (
    CAMERA_FORMATS,
    CameraEvents,
    camera_events,
    check_count,
    unwrap,
)
from model.media.types import Limits, UnknownFormat

_EVENT_BYTES = 5
#: Bits of the time, in microseconds.
_TIME_BITS = 23
#: Longest jump back in time, in microseconds: without a header, order is what tells the format.
_MAX_JUMP_US = 1000
#: Share of such jumps above which a file is of another format.
_MAX_JUMPS = 0.01
#: N-MNIST is tried last, as it has no header.
_UNKNOWN = f"it is in no format of events that is read; accepted are {CAMERA_FORMATS}"


def read_camera(data: bytes, limits: Limits) -> CameraEvents:
    """Read the events: byte 0 x, 1 y, bit 7 of byte 2 the polarity, the other 23 bits the time.

    Raises UnknownFormat where the bytes cannot be of this format, and TooLarge.
    """
    count, rest = divmod(len(data), _EVENT_BYTES)
    if rest:
        raise UnknownFormat(_UNKNOWN)
    check_count(count, limits)
    fields = np.frombuffer(data, np.uint8).reshape(-1, _EVENT_BYTES).astype(np.int64)
    high, middle, low = fields[:, 2], fields[:, 3], fields[:, 4]
    time_us = unwrap((high & 0x7F) << 16 | middle << 8 | low, _TIME_BITS)
    if count > 1 and (np.diff(time_us) < -_MAX_JUMP_US).mean() > _MAX_JUMPS:
        raise UnknownFormat(_UNKNOWN)
    x, y, is_on = fields[:, 0], fields[:, 1], (high & 0x80) > 0
    return camera_events(x, y, time_us, is_on, None, limits)
