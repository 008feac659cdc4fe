"""Events in iniVation's AEDAT 4: FlatBuffers in packets, plain or compressed by LZ4 or Zstandard.

Format: docs.inivation.com, "AEDAT file formats".
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np

from model.media.events.types import CameraEvents, camera_events, check_count
from model.media.types import Limits, TooLarge, UnknownFormat, Unusable

if find_spec("lz4"):
    import lz4.frame
if find_spec("zstandard"):
    import zstandard

#: First bytes of every version of AEDAT, and of version 4.
MAGIC, MAGIC_4 = b"#!AER-DAT", b"#!AER-DAT4.0\r\n"
#: Identifier of a packet of camera events.
_EVENTS = b"EVTS"
#: An event: 64 bits of time, x, y, polarity, padding.
_EVENT = np.dtype(
    {"names": ["t", "x", "y", "p"], "formats": ["<i8", "<i2", "<i2", "u1"],
     "offsets": [0, 8, 10, 12], "itemsize": 16}
)  # fmt: skip
_NONE, _LZ4, _LZ4_HIGH, _ZSTD, _ZSTD_HIGH = range(5)
#: Largest header of XML, and largest inflated packet, in bytes.
_MAX_HEADER, _MAX_PACKET = 1 << 20, 64 << 20


def read_camera(data: bytes, limits: Limits) -> CameraEvents:
    """Read the first stream of camera events. Raises MediaError."""
    if not data.startswith(MAGIC_4):
        version = data[len(MAGIC) : len(MAGIC) + 3].decode("latin-1")
        raise UnknownFormat(f"it is AEDAT {version}; accepted are AEDAT 4, and 1 and 2 of a DVS128")
    try:
        compression, table_position, header, first = _read_header(data)
        stream, sensor = _event_stream(header)
        blocks = []
        count = 0
        for packet in _packets(data, first, table_position, stream):
            block = _events(_inflate(packet, compression))
            count += len(block)
            check_count(count, limits)
            blocks.append(block)
    except (struct.error, IndexError) as exc:
        raise Unusable(f"the AEDAT file is damaged: {exc}") from exc
    events = np.concatenate(blocks) if blocks else np.empty(0, _EVENT)
    x, y, time_us = (events[name].astype(np.int64) for name in "xyt")
    if len(time_us) and (time_us.min() < -(2**62) or time_us.max() > 2**62):
        raise Unusable("the AEDAT file is damaged: it has a time above 2^62")
    return camera_events(x, y, time_us, events["p"] > 0, sensor, limits)


def _read_header(data: bytes) -> tuple[int, int, str, int]:
    """Return compression, position of the data table (-1: none), XML, and the first packet's
    position."""
    start = len(MAGIC_4)
    (size,) = struct.unpack_from("<I", data, start)
    if size > _MAX_HEADER:
        raise Unusable(f"the AEDAT file is damaged: its header has {size} bytes")
    table = data[start + 4 : start + 4 + size]
    compression = _field(table, 0)
    position = _field(table, 1)
    info = _field(table, 2)
    kind = 0 if compression is None else struct.unpack_from("<i", table, compression)[0]
    end = -1 if position is None else struct.unpack_from("<q", table, position)[0]
    if info is None:
        raise Unusable("the AEDAT file is damaged: its header has no description of streams")
    text = info + struct.unpack_from("<I", table, info)[0]
    (length,) = struct.unpack_from("<I", table, text)
    return (
        kind,
        end,
        table[text + 4 : text + 4 + length].decode("utf-8", "replace"),
        start + 4 + size,
    )


def _field(table: bytes, number: int, root: int | None = None) -> int | None:
    """Return the position of a field of a FlatBuffers table, or None where it has its default."""
    position = struct.unpack_from("<I", table, 0)[0] if root is None else root
    vtable = position - struct.unpack_from("<i", table, position)[0]
    if vtable < 0:
        raise IndexError("a table points outside the file")
    (size,) = struct.unpack_from("<H", table, vtable)
    if size < 6 + 2 * number:
        return None
    (offset,) = struct.unpack_from("<H", table, vtable + 4 + 2 * number)
    return position + offset if offset else None


def _event_stream(header: str) -> tuple[int, tuple[int, int] | None]:
    """Return the number of the first stream of events, and its height and width.

    The header is XML, of which a parser would have to be safe: three attributes are searched for.
    """
    for node in re.split(r"<node ", header)[1:]:
        number = re.match(r'name="(\d{1,9})"', node)
        kind = re.search(r'key="typeIdentifier"[^>]*>(\w{4})<', node)
        if number and kind and kind[1].encode() == _EVENTS:
            rest = header[header.index(node) :]
            size = [re.search(rf'key="size{axis}"[^>]*>(\d{{1,5}})<', rest) for axis in "YX"]
            sides = [int(match[1]) for match in size if match]
            return int(number[1]), (sides[0], sides[1]) if len(sides) == 2 else None
    raise Unusable("the AEDAT file has no stream of events")


def _packets(data: bytes, position: int, end: int, stream: int) -> Iterator[bytes]:
    """Yield the packets of a stream, as they are compressed."""
    end = min(end, len(data)) if end > 0 else len(data)
    while position + 8 <= end:
        number, size = struct.unpack_from("<ii", data, position)
        if size < 0 or position + 8 + size > len(data):
            raise Unusable("the AEDAT file is cut off")
        if number == stream:
            yield data[position + 8 : position + 8 + size]
        position += 8 + size


def _inflate(packet: bytes, compression: int) -> bytes:
    """Return a packet's content. Raises MediaError."""
    if compression == _NONE:
        return packet
    name = "lz4" if compression in (_LZ4, _LZ4_HIGH) else "zstandard"
    if compression not in range(5):
        raise UnknownFormat(
            f"the AEDAT file is compressed by method {compression}; accepted are 0 (none), 1 and 2 "
            "(LZ4), 3 and 4 (Zstandard)"
        )
    if not find_spec(name):
        raise UnknownFormat(
            f"the AEDAT file is compressed by {name}, which this service has not installed "
            "(pip install scmrl[events])"
        )
    try:
        inflated = _inflate_lz4(packet) if name == "lz4" else _inflate_zstd(packet)
    except (RuntimeError, EOFError, MemoryError, zstandard.ZstdError) as exc:
        raise Unusable(f"the AEDAT file is damaged: {exc}") from exc
    if len(inflated) > _MAX_PACKET:
        raise TooLarge(f"a packet has more than {_MAX_PACKET} bytes")
    return inflated


def _inflate_lz4(packet: bytes) -> bytes:
    inflated: bytes = lz4.frame.LZ4FrameDecompressor().decompress(packet, _MAX_PACKET + 1)
    return inflated


def _inflate_zstd(packet: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(packet) as reader:
        inflated: bytes = reader.read(_MAX_PACKET + 1)
    return inflated


def _events(packet: bytes) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """Return the events of a packet, a FlatBuffers table with one vector of structures."""
    if packet[8:12] != _EVENTS:
        raise Unusable("the AEDAT file is damaged: a packet of events has another identifier")
    table = packet[4:]  # after its size
    vector = _field(table, 0)
    if vector is None:
        return np.empty(0, _EVENT)
    first = vector + struct.unpack_from("<I", table, vector)[0]
    (count,) = struct.unpack_from("<I", table, first)
    if first + 4 + count * _EVENT.itemsize > len(table):
        raise IndexError("a packet has fewer events than it says")
    return np.frombuffer(table, _EVENT, count, first + 4)
