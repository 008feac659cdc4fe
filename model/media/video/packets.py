"""Decode and inspect video packets: NAL units, non-reference frames, random access points."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from av.packet import Packet, PacketSideData
from av.stream import Stream

#: Largest number of units in a packet that are read.
_MAX_UNITS = 1000
#: Bytes at the beginning of a slice that contain first_mb_in_slice and slice_type.
_SLICE_HEADER_BYTES = 8
#: Start code before a unit (H.264, annex B).
_START_CODE = b"\0\0\1"
#: slice_type of I and SI slices (H.264, 7.4.3).
_INTRA_SLICE_TYPES = frozenset((2, 4, 7, 9))

#: Codecs whose decoders report which frames are key frames, so that a wrong key frame flag of the
#: container is detected. H.264 is not among them: its packets are parsed. For other codecs, such
#: as screen recorders', the flag is not reliable: old files have it on every packet.
RELIABLE_KEY_FRAMES = frozenset(
    (
        *("hevc", "vp8", "vp9", "av1", "libdav1d", "vvc", "theora", "cavs", "snow", "zmbv", "ffv1"),
        *("mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "h263"),
        *("flv", "wmv1", "wmv2", "wmv3", "vc1", "vp6", "vp6f", "vp6a", "rv30", "rv40"),
    )
)


class _Syntax(NamedTuple):
    """How a codec's units are distinguished by their first byte.

    `sets`: types of parameter sets; `pictures`: types of slices, before which sets are searched.
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


def decode(stream: Stream, packet: Packet[Any] | None) -> list[Any]:
    """Decode a packet to frames; none if it is damaged. None as packet flushes the decoder."""
    return decode_or_none(stream, packet) or []


def decode_or_none(stream: Stream, packet: Packet[Any] | None) -> list[Any] | None:
    """Decode a packet to frames; None if the decoder raises an error."""
    try:
        return list(stream.codec_context.decode(packet))  # type: ignore[attr-defined]
    except MemoryError:
        raise
    except Exception:  # FFmpeg's errors, and builtin ones for some damaged packets
        return None


def unit_length_size(codec: str, extradata: bytes | None) -> int:
    """Return the bytes of the length before each unit of H.264 or HEVC; 0 for start codes.

    mp4 and Matroska have lengths, MPEG-TS and AVI start codes.
    """
    header, offset = extradata or b"", {"h264": 4, "hevc": 21}.get(codec, 0)
    return (header[offset] & 3) + 1 if offset and len(header) > offset and header[0] == 1 else 0


def parameter_sets(packet: Packet[Any], codec: str, length_size: int) -> tuple[bytes, ...]:
    """Return the parameter sets before a packet's first slice, without lengths or start codes.

    `length_size` is the bytes of the length before each unit; 0 for start codes.
    """
    syntax = _SYNTAX.get(codec)
    if syntax is None:
        return ()
    data = memoryview(packet)
    units: list[bytes] = []
    for offset in _unit_offsets(data, length_size):
        kind = (data[offset] & syntax.mask) >> syntax.shift
        if kind in syntax.pictures:
            break
        if kind in syntax.sets:
            units.append(_unit(data, offset, length_size))
    return tuple(units)


def join_units(units: Iterable[bytes], length_size: int) -> bytes:
    """Join units with lengths of `length_size` bytes, or with start codes if it is 0.

    Units that are too long for such a length are omitted.
    """
    if length_size:
        fitting = [unit for unit in units if len(unit) < 1 << 8 * length_size]
        return b"".join(len(unit).to_bytes(length_size, "big") + unit for unit in fitting)
    return b"".join(b"\0" + _START_CODE + unit for unit in units)


def copy_packet(
    packet: Packet[Any], data: bytes, side_data: Iterable[PacketSideData] = ()
) -> Packet[Any]:
    """Return a packet of `data` with the times and side data of `packet`, and more side data.

    The copy has no discard flag, so that its frame is shown.
    """
    copy: Packet[Any] = Packet(data)
    copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
    copy.time_base = packet.time_base
    copy.is_keyframe = packet.is_keyframe
    for item in (*packet.iter_sidedata(), *side_data):
        copy.set_sidedata(item)
    return copy


def is_random_access_point(packet: Packet[Any], length_size: int) -> bool:
    """Return whether decoding can start at a packet, for its frame and all that are shown later.

    FFmpeg's key flag is also set where a gradual intra refresh of H.264 begins, on frames that
    are predicted from others. `length_size` is as in `parameter_sets`.
    """
    context: Any = packet.stream.codec_context
    if context.name != "h264":
        is_known = context.name in RELIABLE_KEY_FRAMES or context.codec.intra_only
        return bool(packet.is_keyframe) and is_known
    if not packet.is_keyframe:
        return False
    data = memoryview(packet)
    for offset in _unit_offsets(data, length_size):
        if _is_slice(data[offset]):  # the first field's; the second may be predicted from it
            return _slice_type(data[offset : offset + _SLICE_HEADER_BYTES]) in _INTRA_SLICE_TYPES
    return True


def is_non_reference(packet: Packet[Any], length_size: int) -> bool:
    """Return whether all slices of an H.264 packet are non-reference (nal_ref_idc is 0).

    Packets with parameter sets count as reference. `length_size` is the bytes of the length
    before each unit. The first byte of a unit has nal_ref_idc (H.264, 7.3.1).
    """
    data = memoryview(packet)
    headers = [data[offset] for offset in _length_prefixed_units(data, length_size)]
    slices = [header for header in headers if _is_slice(header)]
    sets = _SYNTAX["h264"].sets
    return (
        bool(slices)
        and len(headers) < _MAX_UNITS
        and not any(header & 0x60 for header in slices)
        and not any(header & 0x1F in sets for header in headers)
    )


def _unit_offsets(data: memoryview, length_size: int) -> Iterator[int]:
    return _length_prefixed_units(data, length_size) if length_size else _start_code_units(data)


def _length_prefixed_units(data: memoryview, length_size: int) -> Iterator[int]:
    """Yield the offset of each unit behind its length of `length_size` bytes."""
    offset = 0
    for _ in range(_MAX_UNITS):
        if offset + length_size >= len(data):
            return
        yield offset + length_size
        offset += length_size + int.from_bytes(data[offset : offset + length_size], "big")


def _start_code_units(data: memoryview) -> Iterator[int]:
    """Yield the offset of each unit behind its start code (H.264, annex B)."""
    whole, offset = bytes(data), 0
    for _ in range(_MAX_UNITS):
        offset = whole.find(_START_CODE, offset) + len(_START_CODE)
        if offset < len(_START_CODE) or offset >= len(whole):
            return
        yield offset


def _unit(data: memoryview, offset: int, length_size: int) -> bytes:
    """Return the unit at an offset, up to its length or the next start code."""
    if length_size:
        return bytes(
            data[offset : offset + int.from_bytes(data[offset - length_size : offset], "big")]
        )
    rest = bytes(data[offset:])
    end = rest.find(_START_CODE)
    return rest if end < 0 else rest[:end]


def _is_slice(header: int) -> bool:
    """Return whether nal_unit_type, in a unit's first byte, is a slice's, 1 to 5 (H.264, 7.3.1)."""
    return 1 <= header & 0x1F <= 5


def _slice_type(header: memoryview) -> int:
    """Return slice_type, the second Exp-Golomb code of a slice header (H.264, 7.3.3, 9.1)."""
    bits = f"{int.from_bytes(header[1:], 'big'):0{8 * (len(header) - 1)}b}"
    kind = -1
    for _ in range(2):
        zeros = bits.find("1")
        number, bits = bits[zeros : 2 * zeros + 1], bits[2 * zeros + 1 :]
        kind = int(number or "0", 2) - 1
    return kind
