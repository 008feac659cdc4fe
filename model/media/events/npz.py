"""Events in NumPy's .npz: arrays `x, y, t, p` of a camera, or `channel, t` of a cochlea."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.media.events.types import (
    CameraEvents,
    ChannelEvents,
    Integers,
    camera_events,
    channel_events,
    unwrap,
)
from model.media.npz import read_arrays
from model.media.types import Limits, Unusable


def read_camera(data: bytes, limits: Limits) -> CameraEvents:
    """Read `x`, `y` (pixels), `t` (µs) and `p` (0, 1 or -1, 1), and `width` and `height` where
    they are there. A structured array with fields of these names is read as well.

    Raises MediaError.
    """
    arrays = _read(data, ("x", "y", "t", "p"), limits)
    polarity = _whole("p", arrays["p"])
    if not np.isin(polarity, (-1, 0, 1)).all():
        raise Unusable("`p` must be 0 or 1, or -1 or 1")
    sides = [int(_whole(name, arrays[name]).ravel()[0]) for name in ("height", "width")
             if name in arrays and arrays[name].size == 1]  # fmt: skip
    sensor = (sides[0], sides[1]) if len(sides) == 2 else None
    x, y = _whole("x", arrays["x"]), _whole("y", arrays["y"])
    return camera_events(x, y, _time("t", arrays["t"]), polarity > 0, sensor, limits)


def read_channels(data: bytes, limits: Limits) -> ChannelEvents:
    """Read `channel` and `t` (µs). Raises MediaError."""
    arrays = _read(data, ("channel", "t"), limits)
    return channel_events(_whole("channel", arrays["channel"]), _time("t", arrays["t"]), limits)


def pack_channels(events: ChannelEvents) -> bytes:
    """Return the events of a cochlea as a file that `read_channels` reads."""
    file = io.BytesIO()
    np.savez_compressed(file, channel=events.channel.astype(np.uint16), t=events.time_us)
    return file.getvalue()


def _read(data: bytes, names: Sequence[str], limits: Limits) -> Mapping[str, NDArray[Any]]:
    """Return the arrays of these names, all of one length, and the others that are small."""
    arrays = read_arrays(data, limits.max_events, "events", "max_events")
    for array in list(arrays.values()):
        if array.dtype.names and set(names) <= set(array.dtype.names):
            arrays |= {name: array[name] for name in array.dtype.names}
    missing = [name for name in names if name not in arrays]
    if missing:
        raise Unusable(
            f"the archive has the arrays {', '.join(sorted(arrays)) or 'none'}; needed are "
            f"{', '.join(names)}"
        )
    shapes = {name: list(arrays[name].shape) for name in names}
    if any(len(shape) != 1 for shape in shapes.values()) or len({*map(tuple, shapes.values())}) > 1:
        raise Unusable(f"{', '.join(names)} must be of one length [n]; these are {shapes}")
    return arrays


def _whole(name: str, values: NDArray[Any]) -> Integers:
    """Return whole numbers as int64. Raises Unusable for others."""
    if values.dtype.kind in "biu":
        if values.dtype == np.uint64 and values.size and values.max() > np.iinfo(np.int64).max:
            raise Unusable(f"`{name}` has values above 2^63")
        return values.astype(np.int64)
    is_whole = values.dtype.kind == "f" and bool((np.abs(values) < 2**53).all())
    if not is_whole or not (values == np.floor(values)).all():
        unit = " of microseconds" if name == "t" else ""
        raise Unusable(f"`{name}` must be whole numbers{unit}; it is {values.dtype}")
    return values.astype(np.int64)


def _time(name: str, values: NDArray[Any]) -> Integers:
    """Return microseconds; a 32-bit counter that has overflowed is unwrapped."""
    time_us = _whole(name, values)
    if len(time_us) and not -(2**62) < time_us.min() <= time_us.max() < 2**62:
        raise Unusable(f"`{name}` has values above 2^62")
    return unwrap(time_us, 32) if values.dtype in (np.uint32, np.int32) else time_us
