"""Limit the number of tags and programmes in a file's headers before FFmpeg reads them.

FFmpeg compares each tag of a file with all previous ones, and each programme of MPEG-TS with all
others, which takes quadratic time. It reads some lists in one go, where `BoundedInput` cannot
stop it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count

from model.media.headers import ogg_comments
from model.media.types import Limits, TooLarge

#: Largest number of tags in a file. Ordinary files have far fewer.
MAX_TAGS = 5000
_MAX_LISTS = 1000
#: Largest number of programmes in MPEG-TS. Broadcast multiplexes have far fewer.
MAX_PROGRAMMES = 1000
#: Largest number of comparisons of programmes: entries of all tables x programmes. A minute of
#: broadcast MPEG-TS needs a million.
_COMPARISONS_PER_MINUTE = 10_000_000

_ID3 = re.compile(rb"ID3[\x02\x03\x04]")
_ID3_HEAD_BYTES = 10
#: ID3v2 frames that become tags, chapters or pictures. Names in ID3v2.2 have three letters.
_ID3_FRAMES = re.compile(rb"T[A-Z0-9]{3}|PRIV|COMM|USLT|WXXX|UFID|CHAP|GEOB|APIC")
_ID3_V2_FRAMES = re.compile(rb"T[A-Z0-9]{2}|COM|ULT|WXX|UFI|GEO|PIC")
#: A frame's name from ID3v2.3 on, and the flags for compression and the inflated length.
_ID3_NAME = re.compile(rb"[A-Z0-9]{4}")
_ID3_COMPRESSED, _ID3_WITH_LENGTH = 0x08, 0x01
_FLAC = b"fLaC"
_FLAC_COMMENTS = 4
#: Largest number of metadata blocks in a FLAC file.
_MAX_BLOCKS = 10_000
#: CAF: bytes of the file header, of a chunk header, and the chunk of tags.
_CAF, _CAF_HEAD_BYTES, _CAF_CHUNK_BYTES, _CAF_TAGS = b"caff", 8, 12, b"info"
_MATROSKA = b"\x1a\x45\xdf\xa3"
#: Matroska IDs: Tags and SimpleTag.
_TAGS, _SIMPLE_TAG = b"\x12\x54\xc3\x67", b"\x67\xc8"
#: MPEG-TS: a packet in which the PAT (PID 0) or the SDT (PID 17) begins.
_TABLE = re.compile(rb"\x47[\x40\x60\xc0\xe0]([\x00\x11])")
_TS_PACKET = 188
_TS_SIZES = (188, 192, 204)
#: Consecutive packets by which MPEG-TS is detected.
_TS_RUN = 6
#: Bytes of a section's header and checksum, of the shortest entry, and entries per packet.
_SECTION_BYTES, _ENTRY_BYTES, _ENTRIES = 12, 4, 42
#: Table IDs: PAT, and SDT of this and of another multiplex.
_TABLE_IDS = frozenset((0x00, 0x42, 0x46))


def check_header_counts(data: bytes, limits: Limits) -> None:
    """Raise TooLarge if the headers list too many tags or programmes."""
    tags = sum(_id3_frames(data, limits)) + sum(_flac_comments(data))
    tags += sum(_matroska_tags(data)) + sum(_caf_tags(data))
    tags += max(ogg_comments.count_comments(data), default=0)
    if tags > MAX_TAGS:
        raise TooLarge(f"the file has {tags} tags; at most {MAX_TAGS} are accepted")
    _check_programmes(data, limits)


def _id3_frames(data: bytes, limits: Limits) -> Iterator[int]:
    """Yield the number of frames of each ID3v2 tag, anywhere in the file."""
    for number, tag in enumerate(_ID3.finditer(data)):
        if number > _MAX_LISTS:
            raise TooLarge(f"the file has too many ID3 tags; at most {_MAX_LISTS} are accepted")
        size = _read_synchsafe(data[tag.start() + 6 : tag.start() + _ID3_HEAD_BYTES])
        body = memoryview(data)[tag.start() + _ID3_HEAD_BYTES :][:size]
        _check_id3_inflated(bytes(body), limits)
        frames = _ID3_V2_FRAMES if tag[0].endswith(b"\2") else _ID3_FRAMES
        yield sum(1 for _ in frames.finditer(body))


def _check_id3_inflated(body: bytes, limits: Limits) -> None:
    """Raise TooLarge if compressed frames of an ID3 tag inflate to too much, or nest others."""
    remaining = limits.max_inflated_bytes
    offset = 0
    for _ in range(MAX_TAGS):
        name, length, flags = (
            body[offset : offset + 4],
            body[offset + 4 : offset + 8],
            body[offset + 9 : offset + 10],
        )
        if not _ID3_NAME.fullmatch(name) or not flags:
            return
        if flags[0] & _ID3_COMPRESSED:
            if flags[0] & _ID3_WITH_LENGTH:
                remaining -= int.from_bytes(body[offset + 10 : offset + 14], "big")
            if remaining < 0 or name == b"CHAP":
                raise TooLarge(
                    "the frames of its ID3 tag are too large when inflated; at most "
                    f"{limits.max_inflated_bytes} bytes are accepted",
                    limit="max_inflated_bytes",
                )
        # Some programs write plain 32-bit lengths instead of synchsafe ones.
        next_offset = offset + _ID3_HEAD_BYTES + _read_synchsafe(length)
        is_next = next_offset >= len(body) or _ID3_NAME.fullmatch(
            body, next_offset, next_offset + 4
        )
        offset = (
            next_offset if is_next else offset + _ID3_HEAD_BYTES + int.from_bytes(length, "big")
        )


def _read_synchsafe(length: bytes) -> int:
    """Return a synchsafe integer, which has seven bits in each byte (ID3v2.4, 6.2)."""
    number = 0
    for byte in length:
        number = number << 7 | byte & 0x7F
    return number


def _flac_comments(data: bytes) -> Iterator[int]:
    """Yield the number of comments in each comment block of a FLAC file."""
    offset, is_last = len(_FLAC), not data.startswith(_FLAC)
    for number in count():
        if is_last or offset + 4 > len(data):
            return
        if number > _MAX_BLOCKS:
            raise TooLarge(
                f"the file has too many metadata blocks; at most {_MAX_BLOCKS} are accepted"
            )
        is_last, kind = bool(data[offset] & 0x80), data[offset] & 0x7F
        begin, offset = (
            offset + 4,
            offset + 4 + int.from_bytes(data[offset + 1 : offset + 4], "big"),
        )
        if kind == _FLAC_COMMENTS:
            count_offset = begin + 4 + int.from_bytes(data[begin : begin + 4], "little")
            yield min(
                (offset - begin) // 4,
                int.from_bytes(data[count_offset : count_offset + 4], "little"),
            )


def _caf_tags(data: bytes) -> Iterator[int]:
    """Yield the number of tags in each information chunk of a CAF file."""
    offset = _CAF_HEAD_BYTES if data.startswith(_CAF) else len(data)
    for _ in range(_MAX_LISTS):
        if offset + _CAF_CHUNK_BYTES > len(data):
            return
        name, size = (
            data[offset : offset + 4],
            int.from_bytes(data[offset + 4 : offset + 12], "big"),
        )
        offset += _CAF_CHUNK_BYTES
        if name == _CAF_TAGS:
            yield int.from_bytes(data[offset : offset + 4], "big")
        offset += size
    raise TooLarge(f"the file has too many chunks; at most {_MAX_LISTS} are accepted")


def _matroska_tags(data: bytes) -> Iterator[int]:
    """Yield the number of tags in each list of a Matroska file, anywhere in the file."""
    begin = data.find(_TAGS) if data.startswith(_MATROSKA) else -1
    for _ in range(_MAX_LISTS):
        if begin < 0:
            return
        begin += len(_TAGS)
        length = 9 - data[begin].bit_length() if begin < len(data) and data[begin] else 8
        size = int.from_bytes(data[begin : begin + length], "big") & (1 << 7 * length) - 1
        yield data.count(_SIMPLE_TAG, begin, begin + length + size)
        begin = data.find(_TAGS, begin)
    raise TooLarge(f"the file has too many lists of tags; at most {_MAX_LISTS} are accepted")


def _check_programmes(data: bytes, limits: Limits) -> None:
    """Raise TooLarge if the tables of an MPEG-TS list too many programmes, or too often."""
    sections: dict[bytes, int] = {}
    entries = programmes = 0
    max_comparisons = limits.scale_to_duration(_COMPARISONS_PER_MINUTE)
    for match in _TABLE.finditer(data):
        begin = match.start()
        packet = data[begin : begin + _TS_PACKET]
        section = _section(packet) if _is_packet_run(data, begin) else b""
        if not section or section[0] not in _TABLE_IDS:
            continue
        if section not in sections:
            length = (section[1] & 0x0F) << 8 | section[2] if len(section) > 2 else 0
            sections[section] = max(_ENTRIES, (length - _SECTION_BYTES + 3) // _ENTRY_BYTES)
            programmes += sections[section]
        entries += sections[section]
        if programmes > MAX_PROGRAMMES or entries * programmes > max_comparisons:
            raise TooLarge(
                "its tables list too many programmes, or repeat them too often; at most "
                f"{MAX_PROGRAMMES} programmes are accepted"
            )


def _is_packet_run(data: bytes, begin: int) -> bool:
    """Return whether packets of one size follow at `begin`, up to the end of a short file."""
    return any(
        data[begin : begin + _TS_RUN * size : size].strip(b"\x47") == b"" for size in _TS_SIZES
    )


def _section(packet: bytes) -> bytes:
    """Return the section that begins in a packet of MPEG-TS; empty if none does."""
    if len(packet) < _TS_PACKET:
        return b""
    offset = 4 + (1 + packet[4] if packet[3] & 0x20 else 0)  # behind an adaptation field
    return packet[offset + 1 + packet[offset] :] if offset < _TS_PACKET else b""
