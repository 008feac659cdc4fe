"""How many entries the tables of an MP4 or MOV file have, counted before FFmpeg reads them.

A few bytes can list millions of samples: in a table of one entry, in a fragment without a size
for each, or by an edit list that shows the same ones again and again.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from model.media.types import Limits, TooLarge

#: More boxes than a minute has: with a fragment for each frame it has half of them.
BOXES_PER_MINUTE = 100_000
#: More entries of tables, or samples, than a minute has: each costs time and memory.
ENTRIES_PER_MINUTE = 1_000_000
#: Names that a file begins with.
_FIRST = (b"ftyp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"styp", b"sidx", b"pnot")
#: Boxes that FFmpeg looks for boxes in, wherever they are.
_CONTAINERS = frozenset(
    (
        *(b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"udta", b"moof", b"traf"),
        *(b"mvex", b"tref", b"wave", b"cmov", b"mfra"),
    )
)
#: Where a table's number of entries is, behind the box's head.
_COUNTS = {
    **dict.fromkeys((b"stts", b"ctts", b"stsc", b"stco", b"co64", b"stss", b"stps", b"elst"), 4),
    b"trun": 4,
    b"stsz": 8,
    b"stz2": 8,
    b"tfra": 12,
}
_TABLE = re.compile(rb"|".join(_COUNTS))
#: Samples of PCM that FFmpeg makes one packet of.
_PCM_SAMPLES = 1024


class _Box(NamedTuple):
    """A box's name, and where what it holds begins and ends."""

    name: bytes
    begin: int
    end: int


@dataclass
class _Track:
    """What a track's tables say: numbers of entries, and kinds of media."""

    counts: dict[bytes, int] = field(default_factory=dict)
    kinds: set[bytes] = field(default_factory=set)
    longest_chunk: int = 0
    is_by_sample: bool = False

    @property
    def packets(self) -> int:
        """How many FFmpeg lists, with all edits."""
        samples = self.counts.get(b"stsz", 0) + self.counts.get(b"stz2", 0)
        if self.is_by_sample and self.counts[b"stts"] == 1 and self.kinds == {b"soun"}:
            chunks = self.counts.get(b"stco", 0) + self.counts.get(b"co64", 0)
            samples = chunks * -(-self.longest_chunk // _PCM_SAMPLES)
        return samples * max(1, self.counts.get(b"elst", 0))


def check_tables(data: bytes, limits: Limits) -> None:
    """Raise TooLarge where an MP4 has too many boxes, or its tables too many entries."""
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
        """Raise TooLarge where all tables together have too many entries."""
        most = self._limits.in_all(ENTRIES_PER_MINUTE)
        if self._entries + sum(track.packets for track in self._tracks) > most:
            raise TooLarge(
                f"its tables list more than {most} entries or samples, which is more than any "
                f"clip of {self._limits.max_duration_s:g} s has"
            )

    def read(self, data: bytes) -> None:
        """Note all tables. Raises TooLarge where there are too many boxes."""
        self._read(data, _Box(b"", 0, len(data)))

    def _read(self, data: bytes, parent: _Box) -> None:
        for box in _children(data, parent.begin, parent.end):
            self._boxes += 1
            if self._boxes > (most := self._limits.in_all(BOXES_PER_MINUTE)):
                raise TooLarge(f"the file has more than {most} boxes, which is the most accepted")
            if box.name == b"trak":
                self._tracks.append(_Track())
            self._note(data, box)
            if box.name in _CONTAINERS:
                self._read(data, box)

    def _note(self, data: bytes, box: _Box) -> None:
        track = self._tracks[-1]
        if box.name in _COUNTS:
            self._count(data, box.name, box.begin)
        if box.name == b"hdlr":
            kind = data[box.begin + 8 : box.begin + 12]
            track.kinds |= {kind} & {b"soun", b"vide"}
        if box.name == b"stts":
            track.is_by_sample = _number(data, box.begin + 12) == 1
        if box.name == b"stsc":
            most = box.begin + 8 + 12 * self._limits.in_all(ENTRIES_PER_MINUTE)
            runs = range(box.begin + 8, min(box.end - 11, most), 12)
            track.longest_chunk = max((_number(data, at + 4) for at in runs), default=0)
        if box.name == b"stsd":
            for table in _TABLE.finditer(data, box.begin, box.end):
                self._count(data, table[0], table.end())
        if box.name == b"cmvd":
            self.read(_inflated(data[box.begin + 4 : box.end], self._limits))

    def _count(self, data: bytes, name: bytes, begin: int) -> None:
        count = _number(data, begin + _COUNTS[name])
        counts = self._tracks[-1].counts
        counts[name] = counts.get(name, 0) + count
        if name not in (b"stsz", b"stz2"):
            self._entries += count


def _inflated(data: bytes, limits: Limits) -> bytes:
    """The boxes in a compressed one. Raises TooLarge where they are too long."""
    try:
        boxes = zlib.decompressobj().decompress(data, limits.max_inflated_bytes + 1)
    except zlib.error:
        return b""
    if len(boxes) > limits.max_inflated_bytes:
        raise TooLarge(
            f"its headers inflate to more than {limits.max_inflated_bytes} bytes "
            "(max_inflated_bytes)"
        )
    return boxes


def _children(data: bytes, begin: int, end: int) -> Iterator[_Box]:
    """The boxes between two places."""
    at = begin
    while at + 8 <= end:
        size, head = _number(data, at), 8
        if size == 1:
            size, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        elif size == 0:
            size = end - at
        if size < head:
            return
        yield _Box(data[at + 4 : at + 8], at + head, min(end, at + size))
        at += size


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")
