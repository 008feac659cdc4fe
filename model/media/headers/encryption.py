"""Which streams of a container are encrypted, as its headers say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.media.headers import ebml

Kind = Literal["audio", "video"]
#: Boxes of an mp4 that lie one in the other down to its samples' descriptions.
_PATH = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")
#: What encrypted samples are called: by common encryption, by Apple and by Audible.
_SAMPLES: dict[bytes, Kind] = {
    b"encv": "video",
    b"drmi": "video",
    b"enca": "audio",
    b"drms": "audio",
    b"aavd": "audio",
}
_STSD_HEAD = 8
#: Matroska: where its tracks are, what kind each is, and what its frames are encrypted by.
_TRACKS, _TRACK, _TRACK_TYPE = 0x1654AE6B, 0xAE, 0x83
_ENCODINGS, _ENCODING, _ENCRYPTION = 0x6D80, 0x6240, 0x5035
_TRACK_KINDS: dict[bytes, Kind] = {b"\1": "video", b"\2": "audio"}
_ASF_HEAD = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
#: ASF's objects for content encryption, and its extended and advanced forms.
_ASF_OBJECTS = (
    bytes.fromhex("fbb31122 23bd d211 b4b7 00a0c955fc6e"),
    bytes.fromhex("14e68a29 2226 174c b935 dae07ee9289c"),
    bytes.fromhex("33850543 8169 e649 9b74 ad12cb86d58c"),
)
_TS_PACKET, _TS_SYNC = 188, 0x47
#: What Apple calls streams of MPEG-TS whose samples are encrypted: H.264, AAC, AC-3 and E-AC-3.
_TS_SAMPLES: dict[int, Kind] = {0xDB: "video", 0xCF: "audio", 0xC1: "audio", 0xC2: "audio"}
_MOST_BOXES = 10_000
_ALL: frozenset[Kind] = frozenset(("audio", "video"))


def encrypted_kinds(data: bytes) -> frozenset[Kind]:
    """Which kinds of streams have one that is encrypted; all where the header does not say."""
    if data.startswith(_ASF_HEAD):
        header = data[: int.from_bytes(data[16:24], "little")]
        is_encrypted = any(mark in header for mark in _ASF_OBJECTS)
        return _ALL if is_encrypted else frozenset()
    if data.startswith(b"\x47"):
        return frozenset(_of_ts(data))
    return frozenset(_of_mp4(data)) | frozenset(_of_matroska(data))


def _of_mp4(data: bytes) -> Iterator[Kind]:
    for begin, end in _boxes(data, 0, len(data), _PATH):
        for name, _, _ in _children(data, begin + _STSD_HEAD, end):
            if name in _SAMPLES:
                yield _SAMPLES[name]


def _of_matroska(data: bytes) -> Iterator[Kind]:
    tracks = next(ebml.in_segment(data, _TRACKS), None)
    if tracks is None:
        return
    for begin, end in ebml.within(data, *tracks, _TRACK):
        kinds = [data[at:to] for at, to in ebml.within(data, begin, end, _TRACK_TYPE)]
        path = _ENCODINGS, _ENCODING, _ENCRYPTION
        if any(ebml.within(data, begin, end, *path)) and kinds and kinds[0] in _TRACK_KINDS:
            yield _TRACK_KINDS[kinds[0]]


def _of_ts(data: bytes) -> Iterator[Kind]:
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
    at = 12 + ((streams[10] & 0x0F) << 8 | streams[11]) if end else 0
    while at + 5 <= min(end, len(streams)):
        if streams[at] in _TS_SAMPLES:
            yield _TS_SAMPLES[streams[at]]
        at += 5 + ((streams[at + 3] & 0x0F) << 8 | streams[at + 4])


def _section(packets: NDArray[np.uint8], pid: int) -> bytes:
    """What follows the pointer in the first packet of a table that begins in it."""
    pids = (packets[:, 1] & 0x1F).astype(np.uint16) << 8 | packets[:, 2]
    begins = np.flatnonzero((pids == pid) & (packets[:, 1] & 0x40 > 0))
    if not len(begins):
        return b""
    packet = packets[begins[0]].tobytes()
    at = 4 + (1 + packet[4] if packet[3] & 0x20 else 0)  # behind an adaptation field
    return packet[at + 1 + packet[at] :] if at < _TS_PACKET else b""


def _boxes(data: bytes, begin: int, end: int, path: tuple[bytes, ...]) -> Iterator[tuple[int, int]]:
    """Where what the boxes at a path hold begins and ends."""
    for name, at, to in _children(data, begin, end):
        if name == path[0]:
            if len(path) == 1:
                yield at, to
            else:
                yield from _boxes(data, at, to, path[1:])


def _children(data: bytes, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The boxes between two places: name, and where what each holds begins and ends."""
    at = begin
    for _ in range(_MOST_BOXES):
        if at + 8 > end:
            return
        size, head = int.from_bytes(data[at : at + 4], "big"), 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        elif size == 0:
            size = end - at
        if size < head:
            return
        yield data[at + 4 : at + 8], at + head, min(end, at + size)
        at += size
