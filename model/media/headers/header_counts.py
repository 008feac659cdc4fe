"""How many tags and programmes a file's headers list, counted before a library reads them.

FFmpeg compares each tag of a file with all before it, and each programme of MPEG-TS with all
others, again and again. It reads some lists whole, so that no clock can end its work in time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count

from model.media.headers import ogg_comments
from model.media.types import Limits, TooLarge

#: More tags than an honest file has: each is compared with all others.
MOST_TAGS = 5000
_MOST_LISTS = 1000
#: More programmes than any multiplex has.
MOST_PROGRAMMES = 1000
#: Most comparisons of programmes: entries of all tables times programmes. A minute of honest
#: MPEG-TS needs a million.
_COMPARISONS_PER_MINUTE = 10_000_000

_ID3 = re.compile(rb"ID3[\x02\x03\x04]")
_ID3_HEAD_BYTES = 10
#: Frames of ID3v2 that become tags, chapters or pictures; of version 2 with three letters.
_ID3_FRAMES = re.compile(rb"T[A-Z0-9]{3}|PRIV|COMM|USLT|WXXX|UFID|CHAP|GEOB|APIC")
_ID3_V2_FRAMES = re.compile(rb"T[A-Z0-9]{2}|COM|ULT|WXX|UFI|GEO|PIC")
#: A frame's name from version 3 on, and the flags by which FFmpeg inflates it to a length.
_ID3_NAME = re.compile(rb"[A-Z0-9]{4}")
_ID3_COMPRESSED, _ID3_WITH_LENGTH = 0x08, 0x01
_FLAC = b"fLaC"
_FLAC_COMMENTS = 4
#: More blocks than an honest FLAC has before its sound.
_MOST_BLOCKS = 10_000
#: CAF: bytes of the file's head, of a chunk's; and the chunk of tags.
_CAF, _CAF_HEAD_BYTES, _CAF_CHUNK_BYTES, _CAF_TAGS = b"caff", 8, 12, b"info"
_MATROSKA = b"\x1a\x45\xdf\xa3"
#: Matroska: the list of tags, and one of them.
_TAGS, _SIMPLE_TAG = b"\x12\x54\xc3\x67", b"\x67\xc8"
#: MPEG-TS: a packet in which a table of the programmes, or of the services, begins.
_TABLE = re.compile(rb"\x47[\x40\x60\xc0\xe0]([\x00\x11])")
_TS_PACKET = 188
_TS_SIZES = (188, 192, 204)
#: Packets in a row by which MPEG-TS is known.
_TS_RUN = 6
#: A section's head and checksum, the shortest entry, and the entries that fit in one packet.
_SECTION_BYTES, _ENTRY_BYTES, _ENTRIES = 12, 4, 42
#: Kinds of tables: programmes; services of this multiplex, and of another.
_TABLE_IDS = frozenset((0x00, 0x42, 0x46))


def check_counts(data: bytes, limits: Limits) -> None:
    """Raise TooLarge where the headers list more tags or programmes than honest files have."""
    tags = sum(_id3_frames(data, limits)) + sum(_flac_comments(data))
    tags += sum(_matroska_tags(data)) + sum(_caf_tags(data))
    tags += max(ogg_comments.comments(data), default=0)
    if tags > MOST_TAGS:
        raise TooLarge(f"the file has {tags} tags; at most {MOST_TAGS} are accepted")
    _check_programmes(data, limits)


def _id3_frames(data: bytes, limits: Limits) -> Iterator[int]:
    """The number of frames of each ID3v2 tag, wherever it is."""
    for number, tag in enumerate(_ID3.finditer(data)):
        if number > _MOST_LISTS:
            raise TooLarge(f"the file has more than {_MOST_LISTS} ID3 tags")
        size = _in_sevens(data[tag.start() + 6 : tag.start() + _ID3_HEAD_BYTES])
        body = memoryview(data)[tag.start() + _ID3_HEAD_BYTES :][:size]
        _check_id3_inflated(bytes(body), limits)
        frames = _ID3_V2_FRAMES if tag[0].endswith(b"\2") else _ID3_FRAMES
        yield sum(1 for _ in frames.finditer(body))


def _check_id3_inflated(body: bytes, limits: Limits) -> None:
    """Raise TooLarge where compressed frames of an ID3 tag inflate to too much, or hide others."""
    left = limits.max_inflated_bytes
    at = 0
    for _ in range(MOST_TAGS):
        name, length, flags = body[at : at + 4], body[at + 4 : at + 8], body[at + 9 : at + 10]
        if not _ID3_NAME.fullmatch(name) or not flags:
            return
        if flags[0] & _ID3_COMPRESSED:
            if flags[0] & _ID3_WITH_LENGTH:
                left -= int.from_bytes(body[at + 10 : at + 14], "big")
            if left < 0 or name == b"CHAP":
                raise TooLarge(
                    "the frames of its ID3 tag inflate to more than "
                    f"{limits.max_inflated_bytes} bytes (max_inflated_bytes)"
                )
        # Some programs write lengths of eight bits a byte where there should be seven.
        next_at = at + _ID3_HEAD_BYTES + _in_sevens(length)
        is_next = next_at >= len(body) or _ID3_NAME.fullmatch(body, next_at, next_at + 4)
        at = next_at if is_next else at + _ID3_HEAD_BYTES + int.from_bytes(length, "big")


def _in_sevens(length: bytes) -> int:
    """A number of seven bits in each byte."""
    number = 0
    for byte in length:
        number = number << 7 | byte & 0x7F
    return number


def _flac_comments(data: bytes) -> Iterator[int]:
    """The number of comments in each such block of a FLAC file."""
    at, is_last = len(_FLAC), not data.startswith(_FLAC)
    for number in count():
        if is_last or at + 4 > len(data):
            return
        if number > _MOST_BLOCKS:
            raise TooLarge(f"the file has more than {_MOST_BLOCKS} blocks before its sound")
        is_last, kind = bool(data[at] & 0x80), data[at] & 0x7F
        begin, at = at + 4, at + 4 + int.from_bytes(data[at + 1 : at + 4], "big")
        if kind == _FLAC_COMMENTS:
            place = begin + 4 + int.from_bytes(data[begin : begin + 4], "little")
            yield min((at - begin) // 4, int.from_bytes(data[place : place + 4], "little"))


def _caf_tags(data: bytes) -> Iterator[int]:
    """The number of tags in each such chunk of a CAF file."""
    at = _CAF_HEAD_BYTES if data.startswith(_CAF) else len(data)
    for _ in range(_MOST_LISTS):
        if at + _CAF_CHUNK_BYTES > len(data):
            return
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 12], "big")
        at += _CAF_CHUNK_BYTES
        if name == _CAF_TAGS:
            yield int.from_bytes(data[at : at + 4], "big")
        at += size
    raise TooLarge(f"the file has more than {_MOST_LISTS} chunks, which is the most accepted")


def _matroska_tags(data: bytes) -> Iterator[int]:
    """The number of tags in each list of a Matroska file, wherever it is."""
    begin = data.find(_TAGS) if data.startswith(_MATROSKA) else -1
    for _ in range(_MOST_LISTS):
        if begin < 0:
            return
        begin += len(_TAGS)
        length = 9 - data[begin].bit_length() if begin < len(data) and data[begin] else 8
        size = int.from_bytes(data[begin : begin + length], "big") & (1 << 7 * length) - 1
        yield data.count(_SIMPLE_TAG, begin, begin + length + size)
        begin = data.find(_TAGS, begin)
    raise TooLarge(f"the file has more than {_MOST_LISTS} lists of tags")


def _check_programmes(data: bytes, limits: Limits) -> None:
    """Raise TooLarge where the tables of an MPEG-TS list too many programmes, or too often."""
    sections: dict[bytes, int] = {}
    entries = programmes = 0
    most = limits.in_all(_COMPARISONS_PER_MINUTE)
    for match in _TABLE.finditer(data):
        begin = match.start()
        packet = data[begin : begin + _TS_PACKET]
        section = _section(packet) if _goes_on(data, begin) else b""
        if not section or section[0] not in _TABLE_IDS:
            continue
        if section not in sections:
            length = (section[1] & 0x0F) << 8 | section[2] if len(section) > 2 else 0
            sections[section] = max(_ENTRIES, (length - _SECTION_BYTES + 3) // _ENTRY_BYTES)
            programmes += sections[section]
        entries += sections[section]
        if programmes > MOST_PROGRAMMES or entries * programmes > most:
            raise TooLarge(
                f"its tables list more than {MOST_PROGRAMMES} programmes, or the same ones too "
                "often, which is the most accepted"
            )


def _goes_on(data: bytes, begin: int) -> bool:
    """Whether packets of MPEG-TS of one size follow, up to the file's end if that is near."""
    return any(
        data[begin : begin + _TS_RUN * size : size].strip(b"\x47") == b"" for size in _TS_SIZES
    )


def _section(packet: bytes) -> bytes:
    """What follows the pointer in a packet of MPEG-TS; nothing where no section begins."""
    if len(packet) < _TS_PACKET:
        return b""
    at = 4 + (1 + packet[4] if packet[3] & 0x20 else 0)  # behind an adaptation field
    return packet[at + 1 + packet[at] :] if at < _TS_PACKET else b""
