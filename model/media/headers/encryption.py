"""Detect encrypted streams by the headers of containers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.media.headers import ebml

StreamKind = Literal["audio", "video"]
#: Path of nested boxes to the sample descriptions of an mp4.
_PATH = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")
#: Sample entries of encrypted streams: Common Encryption's, Apple's and Audible's.
_SAMPLES: dict[bytes, StreamKind] = {
    b"encv": "video",
    b"drmi": "video",
    b"enca": "audio",
    b"drms": "audio",
    b"aavd": "audio",
}
_STSD_HEAD = 8
#: Matroska IDs: tracks, a track, its type, and the path to the encryption of its frames.
_TRACKS, _TRACK, _TRACK_TYPE = 0x1654AE6B, 0xAE, 0x83
_ENCODINGS, _ENCODING, _ENCRYPTION = 0x6D80, 0x6240, 0x5035
_TRACK_KINDS: dict[bytes, StreamKind] = {b"\1": "video", b"\2": "audio"}
_ASF_HEAD = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
#: ASF's objects for content encryption, extended and advanced content encryption.
_ASF_OBJECTS = (
    bytes.fromhex("fbb31122 23bd d211 b4b7 00a0c955fc6e"),
    bytes.fromhex("14e68a29 2226 174c b935 dae07ee9289c"),
    bytes.fromhex("33850543 8169 e649 9b74 ad12cb86d58c"),
)
_TS_PACKET, _TS_SYNC = 188, 0x47
#: Stream types of Apple's sample encryption in MPEG-TS: H.264, AAC, AC-3 and E-AC-3.
_TS_SAMPLES: dict[int, StreamKind] = {0xDB: "video", 0xCF: "audio", 0xC1: "audio", 0xC2: "audio"}
_MAX_BOXES = 10_000
_ALL: frozenset[StreamKind] = frozenset(("audio", "video"))


def encrypted_kinds(data: bytes) -> frozenset[StreamKind]:
    """Return the kinds of streams of which at least one is encrypted.

    Both kinds where the header says that something is encrypted but not which stream.
    """
    if data.startswith(_ASF_HEAD):
        header = data[: int.from_bytes(data[16:24], "little")]
        is_encrypted = any(mark in header for mark in _ASF_OBJECTS)
        return _ALL if is_encrypted else frozenset()
    if data.startswith(b"\x47"):
        return frozenset(_ts_kinds(data))
    return frozenset(_mp4_kinds(data)) | frozenset(_matroska_kinds(data))


def _mp4_kinds(data: bytes) -> Iterator[StreamKind]:
    for begin, end in _find_boxes(data, 0, len(data), _PATH):
        for name, _, _ in _children(data, begin + _STSD_HEAD, end):
            if name in _SAMPLES:
                yield _SAMPLES[name]


def _matroska_kinds(data: bytes) -> Iterator[StreamKind]:
    tracks = next(ebml.find_in_segment(data, _TRACKS), None)
    if tracks is None:
        return
    for begin, end in ebml.find_elements(data, *tracks, _TRACK):
        kinds = [
            data[offset:end_offset]
            for offset, end_offset in ebml.find_elements(data, begin, end, _TRACK_TYPE)
        ]
        path = _ENCODINGS, _ENCODING, _ENCRYPTION
        if any(ebml.find_elements(data, begin, end, *path)) and kinds and kinds[0] in _TRACK_KINDS:
            yield _TRACK_KINDS[kinds[0]]


def _ts_kinds(data: bytes) -> Iterator[StreamKind]:
    whole = len(data) // _TS_PACKET * _TS_PACKET
    packets = np.frombuffer(data[:whole], np.uint8).reshape(-1, _TS_PACKET)
    packets = packets[packets[:, 0] == _TS_SYNC]
    if len(packets) and float((packets[:, 3] >= 0x80).mean()) > 0.5:  # scrambled
        yield from _ALL
    programs = _section(packets, 0)
    if len(programs) < 12:
        return
    streams = _section(packets, (programs[10] & 0x1F) << 8 | programs[11])
    end = (streams[1] & 0x0F) << 8 | streams[2] - 1 if len(streams) > 12 else 0  # then its checksum
    offset = 12 + ((streams[10] & 0x0F) << 8 | streams[11]) if end else 0
    while offset + 5 <= min(end, len(streams)):
        if streams[offset] in _TS_SAMPLES:
            yield _TS_SAMPLES[streams[offset]]
        offset += 5 + ((streams[offset + 3] & 0x0F) << 8 | streams[offset + 4])


def _section(packets: NDArray[np.uint8], pid: int) -> bytes:
    """Return the first section of a table in its first packet; empty if there is none."""
    pids = (packets[:, 1] & 0x1F).astype(np.uint16) << 8 | packets[:, 2]
    begins = np.flatnonzero((pids == pid) & (packets[:, 1] & 0x40 > 0))
    if not len(begins):
        return b""
    packet = packets[begins[0]].tobytes()
    offset = 4 + (1 + packet[4] if packet[3] & 0x20 else 0)  # behind an adaptation field
    return packet[offset + 1 + packet[offset] :] if offset < _TS_PACKET else b""


def _find_boxes(
    data: bytes, begin: int, end: int, path: tuple[bytes, ...]
) -> Iterator[tuple[int, int]]:
    """Yield the start and the end of the content of each box at a path."""
    for name, offset, end_offset in _children(data, begin, end):
        if name == path[0]:
            if len(path) == 1:
                yield offset, end_offset
            else:
                yield from _find_boxes(data, offset, end_offset, path[1:])


def _children(data: bytes, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start and end of the content of each box from `begin` to `end`."""
    offset = begin
    for _ in range(_MAX_BOXES):
        if offset + 8 > end:
            return
        size, header_size = int.from_bytes(data[offset : offset + 4], "big"), 8
        if size == 1:
            size, header_size = int.from_bytes(data[offset + 8 : offset + 16], "big"), 16
        elif size == 0:
            size = end - offset
        if size < header_size:
            return
        yield data[offset + 4 : offset + 8], offset + header_size, min(end, offset + size)
        offset += size
