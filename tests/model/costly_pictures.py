"""Small files that are expensive to decode: pictures on a large canvas, many scans, long texts."""

from __future__ import annotations

import struct
import zlib


def gif(width: int, height: int, pictures: int) -> bytes:
    """A canvas of which each picture changes one pixel, 20 ms each."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes([0] * 3 + [255] * 3)
    control = b"\x21\xf9\x04" + struct.pack("<BHBB", 4, 2, 0, 0)
    place = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0)
    parts = [control + place + bytes([2, 2, pixel, 1, 0]) for pixel in (0x4C, 0x44)]
    return b"".join((head, *(parts[number % 2] for number in range(pictures)), b"\x3b"))


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    crc = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)


def png(*before: bytes, after: bytes = b"", pixels: bytes | None = None) -> bytes:
    """A grey picture of 8 x 8 pixels with chunks before and after its pixels."""
    pixels = zlib.compress(bytes(9 * 8)) if pixels is None else pixels
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    whole = (head, *before, chunk(b"IDAT", pixels), after, chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(whole)


def apng(width: int, height: int, pictures: int, surplus: int = 0) -> bytes:
    """A canvas of which each picture but the first changes one pixel, 20 ms each.

    `surplus`: bytes that the last picture inflates to beyond its pixel, a chunk of text in between.
    """
    file = b"\x89PNG\r\n\x1a\n" + chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    )
    file += chunk(b"acTL", struct.pack(">II", pictures, 0))
    file += _control(0, width, height)
    file += chunk(b"IDAT", zlib.compress(bytes((width + 1) * height)))
    for number in range(1, pictures):
        last = number == pictures - 1
        data = zlib.compress(bytes(2 + surplus * last))
        file += _control(2 * number - 1, 1, 1)
        if last and surplus:
            file += chunk(b"fdAT", struct.pack(">I", 2 * number) + data[:2])
            file += chunk(b"tEXt", b"Comment\0in between")
            data = data[2:]
        file += chunk(b"fdAT", struct.pack(">I", 2 * number) + data)
    return file + chunk(b"IEND", b"")


def _control(number: int, width: int, height: int) -> bytes:
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, width, height, 0, 0, 20, 1000, 0, 0))


def jpeg(width: int, height: int, scans: int) -> bytes:
    """A grey progressive JPEG; after the first scan, `scans` of 45 bytes that change nothing."""
    blocks = -(-width // 8) * -(-height // 8)
    file = b"\xff\xd8" + _segment(0xDB, bytes([0] + [1] * 64))
    file += _segment(0xC2, struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\x00")
    file += _segment(0xC4, bytes([0x00, 1] + [0] * 15 + [0]))  # a bit of 0: no difference
    file += _segment(0xC4, bytes([0x10, 0, 1] + [0] * 14 + [0xE0]))  # 00: a run of empty blocks
    file += _segment(0xDA, b"\x01\x01\x00\x00\x00\x00") + bytes(-(-blocks // 8))
    runs = bytes(2 * (blocks // (1 << 14) + 1))
    for number in range(scans):
        band = 1 + number % 63
        file += _segment(0xDA, bytes([1, 1, 0, band, band, 0])) + runs
    return file + b"\xff\xd9"


def _segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", 2 + len(content)) + content
