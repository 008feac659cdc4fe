"""Limit the number of table entries of an MP4 or MOV file before FFmpeg reads them.

A few bytes can declare millions of samples: in a table of one entry, in a fragment without
per-sample sizes, or by an edit list that repeats them.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from model.media.types import Limits, TooLarge

#: Largest number of boxes per minute. A file with a fragment for each frame has half of them.
BOXES_PER_MINUTE = 100_000
#: Largest number of table entries, or samples, per minute.
ENTRIES_PER_MINUTE = 1_000_000
#: Names of the first box of a file.
_FIRST = (b"ftyp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"styp", b"sidx", b"pnot")
#: Boxes in which FFmpeg looks for further boxes.
_CONTAINERS = frozenset(
    (
        *(b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"udta", b"moof", b"traf"),
        *(b"mvex", b"tref", b"wave", b"cmov", b"mfra"),
    )
)
#: Offset of a table's number of entries behind the box header.
_COUNTS = {
    **dict.fromkeys((b"stts", b"ctts", b"stsc", b"stco", b"co64", b"stss", b"stps", b"elst"), 4),
    b"trun": 4,
    b"stsz": 8,
    b"stz2": 8,
    b"tfra": 12,
}
_TABLE = re.compile(rb"|".join(_COUNTS))
#: PCM samples that FFmpeg puts into one packet.
_PCM_SAMPLES = 1024


class _Box(NamedTuple):
    """A box's name, and where its content begins and ends."""

    name: bytes
    begin: int
    end: int


@dataclass
class _Track:
    """A track's numbers of table entries by box name, and its kinds of media."""

    counts: dict[bytes, int] = field(default_factory=dict)
    kinds: set[bytes] = field(default_factory=set)
    longest_chunk: int = 0
    is_per_sample: bool = False

    @property
    def packets(self) -> int:
        """Number of packets that FFmpeg will list, with all edits."""
        samples = self.counts.get(b"stsz", 0) + self.counts.get(b"stz2", 0)
        if self.is_per_sample and self.counts[b"stts"] == 1 and self.kinds == {b"soun"}:
            chunks = self.counts.get(b"stco", 0) + self.counts.get(b"co64", 0)
            samples = chunks * -(-self.longest_chunk // _PCM_SAMPLES)
        return samples * max(1, self.counts.get(b"elst", 0))


def check_tables(data: bytes, limits: Limits) -> None:
    """Raise TooLarge if an MP4 has too many boxes, or its tables too many entries."""
    if data[4:8] in _FIRST:
        tables = _Tables(limits)
        tables.read(data)
        tables.check()


class _Tables:
    """The tables of all tracks."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._boxes = 0
        self._entries = 0
        self._tracks = [_Track()]

    def check(self) -> None:
        """Raise TooLarge if all tables together have too many entries."""
        max_entries = self._limits.scale_to_duration(ENTRIES_PER_MINUTE)
        if self._entries + sum(track.packets for track in self._tracks) > max_entries:
            raise TooLarge(
                f"its tables list too many entries or samples; at most {max_entries} are accepted "
                f"for {self._limits.max_duration_s:g} s",
                limit="max_duration_s",
            )

    def read(self, data: bytes) -> None:
        """Count the entries of all tables. Raises TooLarge for too many boxes."""
        self._read(data, _Box(b"", 0, len(data)))

    def _read(self, data: bytes, parent: _Box) -> None:
        for box in _children(data, parent.begin, parent.end):
            self._boxes += 1
            if self._boxes > (max_boxes := self._limits.scale_to_duration(BOXES_PER_MINUTE)):
                raise TooLarge(f"the file has too many boxes; at most {max_boxes} are accepted")
            if box.name == b"trak":
                self._tracks.append(_Track())
            self._record(data, box)
            if box.name in _CONTAINERS:
                self._read(data, box)

    def _record(self, data: bytes, box: _Box) -> None:
        track = self._tracks[-1]
        if box.name in _COUNTS:
            self._count(data, box.name, box.begin)
        if box.name == b"hdlr":
            kind = data[box.begin + 8 : box.begin + 12]
            track.kinds |= {kind} & {b"soun", b"vide"}
        if box.name == b"stts":
            track.is_per_sample = _read_uint32(data, box.begin + 12) == 1
        if box.name == b"stsc":
            max_entries = box.begin + 8 + 12 * self._limits.scale_to_duration(ENTRIES_PER_MINUTE)
            runs = range(box.begin + 8, min(box.end - 11, max_entries), 12)
            track.longest_chunk = max(
                (_read_uint32(data, offset + 4) for offset in runs), default=0
            )
        if box.name == b"stsd":
            for table in _TABLE.finditer(data, box.begin, box.end):
                self._count(data, table[0], table.end())
        if box.name == b"cmvd":
            self.read(_inflate(data[box.begin + 4 : box.end], self._limits))

    def _count(self, data: bytes, name: bytes, begin: int) -> None:
        count = _read_uint32(data, begin + _COUNTS[name])
        counts = self._tracks[-1].counts
        counts[name] = counts.get(name, 0) + count
        if name not in (b"stsz", b"stz2"):
            self._entries += count


def _inflate(data: bytes, limits: Limits) -> bytes:
    """Return the boxes in a compressed one. Raises TooLarge beyond `max_inflated_bytes`."""
    try:
        boxes = zlib.decompressobj().decompress(data, limits.max_inflated_bytes + 1)
    except zlib.error:
        return b""
    if len(boxes) > limits.max_inflated_bytes:
        raise TooLarge(
            f"its headers are too large when inflated; at most {limits.max_inflated_bytes} bytes "
            "are accepted",
            limit="max_inflated_bytes",
        )
    return boxes


def _children(data: bytes, begin: int, end: int) -> Iterator[_Box]:
    """Yield the boxes from `begin` to `end`."""
    offset = begin
    while offset + 8 <= end:
        size, header_size = _read_uint32(data, offset), 8
        if size == 1:
            size, header_size = int.from_bytes(data[offset + 8 : offset + 16], "big"), 16
        elif size == 0:
            size = end - offset
        if size < header_size:
            return
        yield _Box(data[offset + 4 : offset + 8], offset + header_size, min(end, offset + size))
        offset += size


def _read_uint32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "big")
