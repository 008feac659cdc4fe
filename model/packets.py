"""Packets to frames: what damage leaves of them, and which nothing is made from."""

from __future__ import annotations

from typing import Any

from av.packet import Packet
from av.stream import Stream

#: More units than an honest packet has: each costs time.
_MOST_UNITS = 1000


def decoded(stream: Stream, packet: Packet[Any] | None) -> list[Any]:
    """The frames that a packet completes (None: those that the decoder holds), none if damaged."""
    try:
        return list(stream.codec_context.decode(packet))  # type: ignore[attr-defined]
    except MemoryError:
        raise
    except Exception:  # FFmpeg's errors, and builtin ones on some damage
        return []


def is_needless(packet: Packet[Any], length_bytes: int) -> bool:
    """Whether an H.264 packet holds slices that no other frame is made from, and none else.

    `length_bytes` is how long the length before each of its units is. A unit's first byte has
    nal_ref_idc, which is 0 then, and nal_unit_type, 1 to 5 for slices (H.264, 7.3.1).
    """
    data = memoryview(packet)
    at, slices = 0, False
    for _ in range(_MOST_UNITS):
        if at + length_bytes >= len(data):
            return slices
        head = data[at + length_bytes]
        if 1 <= head & 0x1F <= 5:
            if head & 0x60:
                return False
            slices = True
        at += length_bytes + int.from_bytes(data[at : at + length_bytes], "big")
    return False
