"""Events in AER-DAT 1.0 and 2.0, as jAER records them of a DVS128 (.aedat, .dat)."""

from __future__ import annotations

import re

import numpy as np

from model.media.events.types import CameraEvents, camera_events, check_count, unwrap
from model.media.types import Limits, Unusable

#: Height and width of the sensor.
SENSOR = (128, 128)
#: Records by version: address and time in microseconds, big-endian.
_RECORDS = {
    b"1": np.dtype([("address", ">u2"), ("time", ">u4")]),
    b"2": np.dtype([("address", ">u4"), ("time", ">u4")]),
}
#: Bits of an address: polarity (set where it became darker), column from the right, row from the
#: bottom, and that of external signals.
_OFF, _COLUMN, _ROW, _EXTERNAL = 0x0001, 0x00FE, 0x7F00, 0x8000
_VERSION = re.compile(rb"#!AER-DAT([12])\.")


def is_aerdat(data: bytes) -> bool:
    """Return whether the first line is of one of these versions."""
    return _VERSION.match(data) is not None


def read_camera(data: bytes, limits: Limits) -> CameraEvents:
    """Read the events, without external signals and without a last record that is cut off.

    Raises Unusable where they are not a DVS128's, and TooLarge.
    """
    match = _VERSION.match(data)
    assert match is not None
    record = _RECORDS[match[1]]
    start = _first_record(data)
    count = (len(data) - start) // record.itemsize
    check_count(count, limits)
    records = np.frombuffer(data, record, count, start)
    address = records["address"].astype(np.int64)
    is_event = (address & _EXTERNAL) == 0
    address = address[is_event]
    if len(address) and address.max() > (_OFF | _COLUMN | _ROW):
        raise Unusable("its addresses are not those of a DVS128, of 128 x 128 pixels")
    x = SENSOR[1] - 1 - ((address & _COLUMN) >> 1)
    y = SENSOR[0] - 1 - ((address & _ROW) >> 8)
    time_us = unwrap(records["time"][is_event].astype(np.int64), 32)
    return camera_events(x, y, time_us, (address & _OFF) == 0, SENSOR, limits)


def _first_record(data: bytes) -> int:
    """Return where the header ends: after the last line that begins with "#"."""
    start = 0
    while data[start : start + 1] == b"#":
        end = data.find(b"\n", start)
        start = len(data) if end < 0 else end + 1
    return start
