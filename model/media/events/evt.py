"""Events of Prophesee's cameras (.raw): EVT 2.0 and EVT 3.0, little-endian.

Format: docs.prophesee.ai, "Data Encoding Formats".
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from model.media.events.types import (
    CameraEvents,
    Integers,
    camera_events,
    check_count,
    unwrap,
)
from model.media.types import Limits, UnknownFormat, Unusable

#: First character of a header line.
MAGIC = b"% "
#: Longest header in bytes.
_MAX_HEADER = 64 * 1024


def read_camera(data: bytes, limits: Limits) -> CameraEvents:
    """Read the events, and the sensor's size where the header has it. Raises MediaError."""
    header, body = _split_header(data)
    version = _version(header)
    if version == 2:
        x, y, time_us, is_on = _read_evt2(body, limits)
    else:
        x, y, time_us, is_on = _read_evt3(body, limits)
    return camera_events(x, y, time_us, is_on, _sensor(header), limits)


def _split_header(data: bytes) -> tuple[str, bytes]:
    """Return the lines that begin with `%`, and what follows them."""
    end = 0
    while data.startswith(MAGIC, end):
        newline = data.find(b"\n", end, _MAX_HEADER)
        if newline < 0:
            raise Unusable("the header has no end")
        line, end = data[end:newline].strip(), newline + 1
        if line == b"% end":
            break
    return data[:end].decode("latin-1"), data[end:]


def _version(header: str) -> int:
    """Return 2 or 3. Raises UnknownFormat."""
    named = re.search(r"^% (?:evt|format) (?:EVT)?([\d.]+)", header, re.MULTILINE)
    if named is None:
        raise UnknownFormat(
            "the .raw file's header names no format (`evt`, `format`); accepted are EVT 2.0 and 3.0"
        )
    if named[1] not in ("2", "2.0", "3", "3.0"):
        raise UnknownFormat(f"it is EVT {named[1]}; accepted are EVT 2.0 and 3.0")
    return int(named[1][0])


def _sensor(header: str) -> tuple[int, int] | None:
    """Return height and width in pixels, of the lines `geometry`, `format` or `width`, `height`."""
    geometry = re.search(r"^% geometry (\d{1,5})x(\d{1,5})", header, re.MULTILINE)
    width = re.search(r"^% (?:format .*)?width[ =](\d{1,5})", header, re.MULTILINE)
    height = re.search(r"^% (?:format .*)?height[ =](\d{1,5})", header, re.MULTILINE)
    if geometry:
        return int(geometry[2]), int(geometry[1])
    return (int(height[1]), int(width[1])) if width and height else None


def _read_evt2(
    body: bytes, limits: Limits
) -> tuple[Integers, Integers, Integers, NDArray[np.bool_]]:
    """Read words of 32 bits: type 4; then time 6, x 11, y 11, or the upper 28 bits of the time."""
    words = np.frombuffer(body, "<u4", len(body) // 4).astype(np.int64)
    kind = words >> 28
    is_time, is_event = kind == 8, kind <= 1
    check_count(int(is_event.sum()), limits)
    upper = _last_value(words & 0x0FFF_FFFF, is_time)
    events = np.flatnonzero(is_event & (upper >= 0))
    upper = unwrap(upper[events], 28)
    word = words[events]
    time_us = upper << 6 | word >> 22 & 0x3F
    return word >> 11 & 0x7FF, word & 0x7FF, time_us, kind[events] == 1


def _read_evt3(
    body: bytes, limits: Limits
) -> tuple[Integers, Integers, Integers, NDArray[np.bool_]]:
    """Read words of 16 bits, which change the state: y, the base x, and 24 bits of time.

    An event's own x, or a bit for each of the 12 or 8 pixels from the base on, make events.
    """
    words = np.frombuffer(body, "<u2", len(body) // 2).astype(np.int64)
    kind = words >> 12
    y = _last_value(words & 0x7FF, kind == 0x0)
    time = _evt3_time(words, kind)
    single = kind == 0x2
    base, is_on = _vector_base(words, kind)
    vectors = np.flatnonzero((kind == 0x4) | (kind == 0x5))
    lengths = np.where(kind[vectors] == 0x4, 12, 8)
    bits = words[vectors, None] >> np.arange(12) & 1  # [vectors, 12]
    rows, offsets = np.nonzero(bits & (np.arange(12) < lengths[:, None]))
    check_count(int(single.sum()) + len(rows), limits)
    singles = np.flatnonzero(single)
    index = np.concatenate([singles, vectors[rows]])
    x = np.concatenate([words[singles] & 0x7FF, base[vectors[rows]] + offsets])
    on = np.concatenate([words[singles] >> 11 & 1, is_on[vectors[rows]]]) > 0
    order = np.argsort(index, kind="stable")
    order = order[(y[index[order]] >= 0) & (time[index[order]] >= 0) & (x[order] >= 0)]
    index = index[order]
    return x[order], y[index], time[index], on[order]


def _evt3_time(words: Integers, kind: Integers) -> Integers:
    """Return the time in microseconds at each word; -1 before the first upper bits."""
    high, low = _last_value(words & 0xFFF, kind == 0x8), _last_value(words & 0xFFF, kind == 0x6)
    is_known = high >= 0
    high[is_known] = unwrap(high[is_known], 12)
    return np.where(is_known, high << 12 | np.maximum(low, 0), -1)


def _vector_base(words: Integers, kind: Integers) -> tuple[Integers, Integers]:
    """Return the x and polarity from which each vector word counts.

    The base moves on by the length of each vector before it.
    """
    is_base = kind == 0x3
    base = _last_value(words & 0x7FF, is_base)
    length = np.where(kind == 0x4, 12, np.where(kind == 0x5, 8, 0))
    before = np.cumsum(length) - length
    since = before - before[np.maximum(_last(is_base), 0)]
    return np.where(base >= 0, base + since, -1), _last_value(words >> 11 & 1, is_base)


def _last(mask: NDArray[np.bool_]) -> Integers:
    """Return for each position the last one, up to it, where the mask is true; -1 before."""
    return np.maximum.accumulate(np.where(mask, np.arange(len(mask)), -1))


def _last_value(values: Integers, mask: NDArray[np.bool_]) -> Integers:
    """Return for each position the value at the last position, up to it, where the mask is true; -1
    before."""
    last = _last(mask)
    return np.where(last >= 0, values[np.maximum(last, 0)] if len(values) else values, -1)
