"""Files of events for tests, written by faery and by NumPy."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Width and height of the sensor.
WIDTH, HEIGHT = 346, 260


def events(count: int = 5000, seed: int = 0) -> NDArray[Any]:
    """Random events in order of time over two seconds, with fields t, x, y, p."""
    rng = np.random.default_rng(seed)
    recording = np.zeros(count, [("t", "<u8"), ("x", "<u2"), ("y", "<u2"), ("on", "?")])
    recording["t"] = np.sort(rng.integers(0, 2_000_000, count))
    recording["x"], recording["y"] = rng.integers(0, WIDTH, count), rng.integers(0, HEIGHT, count)
    recording["on"] = rng.random(count) < 0.5
    # A row of neighbours at one time, which EVT 3.0 packs into vectors.
    neighbours = slice(100, 140)
    recording["t"][neighbours] = recording["t"][100]
    recording["x"][neighbours], recording["y"][neighbours] = np.arange(40, 80), 7
    recording["on"][neighbours] = True
    return recording


def encode(recording: NDArray[Any], path: Path, **options: Any) -> bytes:
    """Write events by faery, in the format of the path's suffix, and return the file."""
    import faery

    array = np.zeros(len(recording), faery.EVENTS_DTYPE)
    for name in array.dtype.names or ():
        array[name] = recording[{"p": "on"}.get(name, name)]
    faery.events_stream_from_array(array, (WIDTH, HEIGHT)).to_file(path, **options)
    return path.read_bytes()


def npz(**arrays: Any) -> bytes:
    """Return a compressed .npz."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def nmnist(recording: NDArray[Any]) -> bytes:
    """Write events with sides below 256 in the format of N-MNIST."""
    time = recording["t"].astype(np.uint32)
    polarity = recording["on"].astype(np.uint32) << 7
    fields = [recording["x"], recording["y"], polarity | (time >> 16 & 0x7F), time >> 8 & 255,
              time & 255]  # fmt: skip
    return np.stack(fields, 1).astype(np.uint8).tobytes()


def aerdat(x: Any, y: Any, time_us: Any, is_on: Any, version: int = 2) -> bytes:
    """Write events of a DVS128, x from the left and y from the top, as jAER does."""
    bits, kind = {1: ("int16", ">u2"), 2: ("int32", ">u4")}[version]
    header = (
        f"#!AER-DAT{version}.0\r\n# This is a raw AE data file - do not edit\r\n"
        f"# Data format is {bits} address, int32 timestamp, repeated for each event\r\n"
        "# Timestamps tick is 1 us\r\n"
    )
    records = np.empty(len(x), [("address", kind), ("time", ">u4")])
    off = ~np.asarray(is_on, bool)
    column, row = (127 - np.asarray(side, np.int64) for side in (x, y))
    records["address"] = row << 8 | column << 1 | off
    records["time"] = np.asarray(time_us)
    return header.encode() + records.tobytes()
