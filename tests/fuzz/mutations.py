"""Mutations that damage a file: functions from bytes to bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

Rng = np.random.Generator
Mutation = Callable[[bytes, Rng, Sequence[bytes]], bytes]

#: Names of boxes and chunks whose size, before or after the name, a reader has to trust.
_BOXES = (b"ftyp", b"moov", b"mdat", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"stts", b"stsz",
          b"stsc", b"stco", b"moof", b"traf", b"trun", b"tkhd", b"avcC", b"esds", b"RIFF", b"fmt ",
          b"data", b"LIST", b"movi", b"strh", b"strf", b"idx1", b"IHDR", b"IDAT", b"OggS", b"fLaC",
          b"VP8 ", b"VP8X", b"ispe", b"iloc", b"av1C", b"acTL", b"fcTL")  # fmt: skip
_EXTREMES = (0, 1, 7, 8, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def bits(data: bytes, rng: Rng, others: Sequence[bytes]) -> bytes:
    """Flip some bits, close together or anywhere."""
    flipped = bytearray(data)
    width = int(rng.choice([16, 256, len(data)]))
    first = int(rng.integers(len(data)))
    for _ in range(int(rng.choice([1, 4, 32]))):
        flipped[(first + int(rng.integers(width))) % len(data)] ^= 1 << int(rng.integers(8))
    return bytes(flipped)


def truncated(data: bytes, rng: Rng, others: Sequence[bytes]) -> bytes:
    """Cut off the end or the beginning."""
    offset = int(rng.integers(1, max(2, len(data))))
    return data[:offset] if rng.random() < 0.8 else data[offset:]


def blanked(data: bytes, rng: Rng, others: Sequence[bytes]) -> bytes:
    """Overwrite a range with zeros, ones or noise."""
    first = int(rng.integers(len(data)))
    count = min(int(rng.choice([2, 16, 300])), len(data) - first)
    kind = int(rng.integers(3))
    fill = rng.bytes(count) if kind == 2 else bytes([255 * kind]) * count
    return data[:first] + fill + data[first + count :]


def spliced(data: bytes, rng: Rng, others: Sequence[bytes]) -> bytes:
    """Insert a piece of another file, or overwrite a range with it."""
    other = others[int(rng.integers(len(others)))]
    begin = int(rng.integers(len(other)))
    piece = other[begin : begin + int(rng.choice([8, 100, 2000]))]
    offset = int(rng.integers(len(data)))
    end = offset + len(piece) * int(rng.integers(2))
    return data[:offset] + piece + data[end:]


def repeated(data: bytes, rng: Rng, others: Sequence[bytes]) -> bytes:
    """Repeat a range many times."""
    first = int(rng.integers(len(data)))
    piece = data[first : first + int(rng.choice([4, 60, 1000]))]
    return data[:first] + piece * int(rng.choice([2, 10, 100])) + data[first:]


def boxed(data: bytes, rng: Rng, others: Sequence[bytes]) -> bytes:
    """Change the size of a box or chunk; without one, a number in the header."""
    offsets = [offset for name in _BOXES if (offset := data.find(name)) >= 0]
    if not offsets or rng.random() < 0.2:
        return header(data, rng, others)
    offset = offsets[int(rng.integers(len(offsets)))] + int(rng.choice([-4, 4]))
    return _with_number(data, max(0, offset), rng)


def header(data: bytes, rng: Rng, others: Sequence[bytes]) -> bytes:
    """Change a number in the first bytes."""
    return _with_number(data, int(rng.integers(min(512, len(data)))), rng)


def _with_number(data: bytes, offset: int, rng: Rng) -> bytes:
    """Write a random or extreme number at an offset."""
    value = int(rng.choice(_EXTREMES)) if rng.random() < 0.7 else int(rng.integers(1 << 32))
    size = int(rng.choice([1, 2, 4]))
    order = "big" if rng.random() < 0.5 else "little"
    number = (value % (1 << 8 * size)).to_bytes(size, order)  # type: ignore[arg-type]
    return data[:offset] + number + data[offset + size :]


MUTATIONS: tuple[Mutation, ...] = (bits, truncated, blanked, spliced, repeated, boxed, header)


def mutated(files: Sequence[bytes], seed: int) -> tuple[int, bytes]:
    """Return the index of a file and its content with one to three mutations, by `seed` alone."""
    rng = np.random.default_rng([17, seed])
    index = int(rng.integers(len(files)))
    data = files[index]
    for _ in range(int(rng.integers(1, 4))):
        mutation = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
        data = mutation(data, rng, files) or b"\0"
    return index, data
