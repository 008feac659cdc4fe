"""The NAL units of H.264 in Annex B, as far as a decoder has to know them beforehand.

`picture_size` reads a sequence parameter set (ITU-T H.264, 7.3.2.1.1), so that pictures that are
too large are refused before memory is taken for them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice

IDR, SPS, PPS = 5, 7, 8
_START = re.compile(b"\x00\x00\x01")
#: Profiles whose parameter sets have a chroma format and scaling matrices.
_HIGH_PROFILES = frozenset({100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135})
#: NAL units of one packet that are looked at, and bytes of a parameter set that are read.
_MAX_UNITS, _MAX_SPS = 512, 512
#: Longest run of zeros before an Exp-Golomb code.
_MAX_ZEROS = 32


@dataclass(frozen=True)
class Unit:
    """A NAL unit: its type, and its bytes after the header."""

    type: int
    payload: memoryview


def units(data: bytes) -> list[Unit]:
    """Return the NAL units of a packet, of which each follows a start code."""
    matches = islice(_START.finditer(data), _MAX_UNITS)
    starts = [match.end() for match in matches]
    ends = [*(start - 3 for start in starts[1:]), len(data)]
    whole = memoryview(data)
    return [
        Unit(data[begin] & 31, whole[begin + 1 : end])
        for begin, end in zip(starts, ends, strict=False)
        if begin < end
    ]


def parameter_sets(data: bytes) -> bytes:
    """Return the sequence and picture parameter sets of a packet, each after a start code."""
    sets = [unit for unit in units(data) if unit.type in (SPS, PPS)]
    # 3 << 5: nal_ref_idc, which is not 0 for parameter sets.
    return b"".join(b"\x00\x00\x01" + bytes([3 << 5 | u.type]) + u.payload for u in sets)


def picture_size(sps: memoryview) -> tuple[int, int] | None:
    """Return width and height in pixels of whole macroblocks; None where it cannot be read."""
    raw = bytes(sps[:_MAX_SPS]).replace(b"\x00\x00\x03", b"\x00\x00")
    try:
        return _read_size(_Bits(raw))
    except ValueError:
        return None


class _Bits:
    """Reads bits, the highest of a byte first. Raises ValueError at the end."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def read(self, count: int) -> int:
        if count > self._left:
            raise ValueError("the parameter set ends early")
        self._left -= count
        return self._value >> self._left & (1 << count) - 1

    def golomb(self) -> int:
        """Read an unsigned Exp-Golomb code."""
        zeros = 0
        while not self.read(1):
            zeros += 1
            if zeros > _MAX_ZEROS:
                raise ValueError("no Exp-Golomb code")
        return (1 << zeros) - 1 + self.read(zeros)

    def signed_golomb(self) -> int:
        code = self.golomb()
        return (code + 1) // 2 if code % 2 else -(code // 2)


def _read_size(bits: _Bits) -> tuple[int, int]:
    profile = bits.read(8)
    bits.read(16)  # constraints, level
    bits.golomb()  # id
    if profile in _HIGH_PROFILES:
        _skip_chroma(bits)
    bits.golomb()  # log2_max_frame_num
    order = bits.golomb()
    if order == 0:
        bits.golomb()
    elif order == 1:
        bits.read(1)
        bits.golomb()
        bits.golomb()
        for _ in range(min(bits.golomb(), 256)):
            bits.golomb()
    bits.golomb()  # reference frames
    bits.read(1)
    width, units_high = bits.golomb() + 1, bits.golomb() + 1
    fields = 2 - bits.read(1)
    return 16 * width, 16 * units_high * fields


def _skip_chroma(bits: _Bits) -> None:
    """Skip chroma format, bit depths and scaling lists."""
    chroma = bits.golomb()
    if chroma == 3:
        bits.read(1)
    bits.golomb()
    bits.golomb()
    bits.read(1)
    if bits.read(1):
        for number in range(12 if chroma == 3 else 8):
            if bits.read(1):
                _skip_scaling_list(bits, 16 if number < 6 else 64)


def _skip_scaling_list(bits: _Bits, length: int) -> None:
    last = following = 8
    for _ in range(length):
        if following:
            following = (last + bits.signed_golomb()) % 256
        last = following or last
