"""Packets: their frames, their units, which nothing is made from, where decoding can start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from av.packet import Packet, PacketSideData
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


#: Codecs whose decoders say which frames are made from no other, so that a key frame that is none
#: is noticed; and H.264, whose packets say it themselves. Of others, screen recorders' for one,
#: the container's word is not enough: old ones have it on every packet.
SELF_CHECKED = frozenset(
    (
        *("hevc", "vp8", "vp9", "av1", "libdav1d", "vvc", "theora", "cavs", "snow", "zmbv", "ffv1"),
        *("mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "h263"),
        *("flv", "wmv1", "wmv2", "wmv3", "vc1", "vp6", "vp6f", "vp6a", "rv30", "rv40"),
    )
)


class _Syntax(NamedTuple):
    """How a codec's units are told apart by their first byte.

    `sets`: kinds that hold for later packets too; `pictures`: kinds that end their search.
    """

    mask: int
    shift: int
    sets: frozenset[int]
    pictures: frozenset[int]


_MPEG_VIDEO = _Syntax(0xFF, 0, frozenset((0xB3, 0xB5)), frozenset((0x00,)))
_SYNTAX = {
    "h264": _Syntax(0x1F, 0, frozenset((7, 8, 13, 15)), frozenset(range(1, 6))),
    "hevc": _Syntax(0x7E, 1, frozenset((32, 33, 34)), frozenset(range(32))),
    "mpeg1video": _MPEG_VIDEO,
    "mpeg2video": _MPEG_VIDEO,
    "mpeg4": _Syntax(0xFF, 0, frozenset((*range(0x30), 0xB0, 0xB5)), frozenset((0xB6,))),
}


def decoded(stream: Stream, packet: Packet[Any] | None) -> list[Any]:
    """The frames that a packet completes (None: those that the decoder holds), none if damaged."""
    return decoded_or_none(stream, packet) or []


def decoded_or_none(stream: Stream, packet: Packet[Any] | None) -> list[Any] | None:
    """The same; None if the decoder refuses the packet."""
    try:
        return list(stream.codec_context.decode(packet))  # type: ignore[attr-defined]
    except MemoryError:
        raise
    except Exception:  # FFmpeg's errors, and builtin ones on some damage
        return None


def length_bytes(codec: str, extradata: bytes | None) -> int:
    """Bytes of the length before each unit of H.264 or HEVC in mp4 or Matroska; else 0."""
    head, at = extradata or b"", {"h264": 4, "hevc": 21}.get(codec, 0)
    return (head[at] & 3) + 1 if at and len(head) > at and head[0] == 1 else 0


def parameter_sets(packet: Packet[Any], codec: str, size: int) -> tuple[bytes, ...]:
    """The units before a packet's picture that hold for later packets too, without marks.

    `size` is how many bytes the length before each of its units has; 0 where each has a mark.
    """
    syntax = _SYNTAX.get(codec)
    if syntax is None:
        return ()
    data = memoryview(packet)
    units: list[bytes] = []
    for at in _units(data, size) if size else _marked_units(data):
        kind = (data[at] & syntax.mask) >> syntax.shift
        if kind in syntax.pictures:
            break
        if kind in syntax.sets:
            units.append(_unit(data, at, size))
    return tuple(units)


def joined(units: Iterable[bytes], size: int) -> bytes:
    """Units behind their lengths of `size` bytes, or behind marks where that is 0.

    Those that are too long for such a length are left out.
    """
    if size:
        fitting = [unit for unit in units if len(unit) < 1 << 8 * size]
        return b"".join(len(unit).to_bytes(size, "big") + unit for unit in fitting)
    return b"".join(b"\0" + _MARK + unit for unit in units)


def copied(packet: Packet[Any], data: bytes, side: Iterable[PacketSideData] = ()) -> Packet[Any]:
    """A packet of other bytes with the times of this one, its side data and more; it is shown."""
    copy: Packet[Any] = Packet(data)
    copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
    copy.time_base = packet.time_base
    copy.is_keyframe = packet.is_keyframe
    for data_of_side in (*packet.iter_sidedata(), *side):
        copy.set_sidedata(data_of_side)
    return copy


def is_start(packet: Packet[Any], size: int) -> bool:
    """Whether decoding can start at a packet with its frame and all that are shown later.

    FFmpeg's flag is also on H.264 that is refreshed bit by bit from there on: on frames that are
    predicted from others. `size`: as in `parameter_sets`.
    """
    context: Any = packet.stream.codec_context
    if context.name != "h264":
        is_known = context.name in SELF_CHECKED or context.codec.intra_only
        return bool(packet.is_keyframe) and is_known
    if not packet.is_keyframe:
        return False
    data = memoryview(packet)
    for at in _units(data, size) if size else _marked_units(data):
        if _is_slice(data[at]):  # a second field's may be predicted from the first one's
            return _slice_kind(data[at : at + _HEAD_BYTES]) in _INTRA
    return True


def is_needless(packet: Packet[Any], size: int) -> bool:
    """Whether an H.264 packet holds slices that no other frame is made from, and none else.

    `size` is how many bytes the length before each of its units has. A unit's first byte has
    nal_ref_idc, which is 0 then (H.264, 7.3.1). One with a parameter set is needed.
    """
    data = memoryview(packet)
    heads = [data[at] for at in _units(data, size)]
    slices = [head for head in heads if _is_slice(head)]
    sets = _SYNTAX["h264"].sets
    return (
        bool(slices)
        and len(heads) < _MOST_UNITS
        and not any(head & 0x60 for head in slices)
        and not any(head & 0x1F in sets for head in heads)
    )


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


def _unit(data: memoryview, at: int, size: int) -> bytes:
    """The unit that begins there, up to where its length or the next mark ends it."""
    if size:
        return bytes(data[at : at + int.from_bytes(data[at - size : at], "big")])
    rest = bytes(data[at:])
    end = rest.find(_MARK)
    return rest if end < 0 else rest[:end]


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
