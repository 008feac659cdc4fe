"""Packets to frames: what damage leaves, which nothing is made from, where decoding can start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from av.packet import Packet
from av.stream import Stream

#: More units than an honest packet has: each costs time.
_MOST_UNITS = 1000
#: Bytes of a unit in which the kind of its slice is found, behind the number of a macroblock.
_HEAD_BYTES = 8
#: What begins a unit that has no length.
_MARK = b"\0\0\1"
#: Kinds of slices that are predicted from no other frame: I and SI, of a frame that has others, or
#: nothing else (H.264, 7.4.3).
_INTRA = frozenset((2, 4, 7, 9))


def decoded(stream: Stream, packet: Packet[Any] | None) -> list[Any]:
    """The frames that a packet completes (None: those that the decoder holds), none if damaged."""
    try:
        return list(stream.codec_context.decode(packet))  # type: ignore[attr-defined]
    except MemoryError:
        raise
    except Exception:  # FFmpeg's errors, and builtin ones on some damage
        return []


def length_bytes(context: Any) -> int:
    """Bytes of the length before each unit of H.264, as mp4 and Matroska have it; else 0."""
    head = context.extradata or b""
    return (head[4] & 3) + 1 if context.name == "h264" and len(head) > 4 and head[0] == 1 else 0


def is_start(packet: Packet[Any]) -> bool:
    """Whether decoding can start at a packet with its frame and all that are shown later.

    FFmpeg's flag is also on H.264 that is refreshed bit by bit from there on: on frames that are
    predicted from others.
    """
    context: Any = packet.stream.codec_context
    if not packet.is_keyframe or context.name != "h264":
        return bool(packet.is_keyframe)
    data = memoryview(packet)
    units = _units(data, size) if (size := length_bytes(context)) else _marked_units(data)
    for at in units:
        if _is_slice(data[at]):  # a second field's may be predicted from the first one's
            return _slice_kind(data[at : at + _HEAD_BYTES]) in _INTRA
    return True


def is_needless(packet: Packet[Any], size: int) -> bool:
    """Whether an H.264 packet holds slices that no other frame is made from, and none else.

    `size` is how many bytes the length before each of its units has. A unit's first byte has
    nal_ref_idc, which is 0 then (H.264, 7.3.1).
    """
    data = memoryview(packet)
    heads = [data[at] for at in _units(data, size)]
    slices = [head for head in heads if _is_slice(head)]
    return bool(slices) and len(heads) < _MOST_UNITS and not any(head & 0x60 for head in slices)


def _units(data: memoryview, size: int) -> Iterator[int]:
    """Where an H.264 packet's units begin, each behind its length of `size` bytes."""
    at = 0
    for _ in range(_MOST_UNITS):
        if at + size >= len(data):
            return
        yield at + size
        at += size + int.from_bytes(data[at : at + size], "big")


def _marked_units(data: memoryview) -> Iterator[int]:
    """The same, each behind a mark, as in MPEG-TS and AVI (H.264, annex B)."""
    whole, at = bytes(data), 0
    for _ in range(_MOST_UNITS):
        at = whole.find(_MARK, at) + len(_MARK)
        if at < len(_MARK) or at >= len(whole):
            return
        yield at


def _is_slice(head: int) -> bool:
    """Whether nal_unit_type, in a unit's first byte, is one of a slice's, 1 to 5 (H.264, 7.3.1)."""
    return 1 <= head & 0x1F <= 5


def _slice_kind(head: memoryview) -> int:
    """slice_type, the second Exp-Golomb number of a slice's header (H.264, 7.3.3, 9.1)."""
    bits = f"{int.from_bytes(head[1:], 'big'):0{8 * (len(head) - 1)}b}"
    kind = -1
    for _ in range(2):
        zeros = bits.find("1")
        number, bits = bits[zeros : 2 * zeros + 1], bits[2 * zeros + 1 :]
        kind = int(number or "0", 2) - 1
    return kind
