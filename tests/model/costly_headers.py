"""Small files with excessive headers: numbers of samples, tags, programmes or packets."""

from __future__ import annotations

import struct
import zlib


def numbers(*values: int) -> bytes:
    """32-bit numbers, the highest byte first."""
    return struct.pack(f">{len(values)}I", *values)


def box(name: bytes, *parts: bytes) -> bytes:
    """A box of an MP4."""
    body = b"".join(parts)
    return numbers(8 + len(body)) + name + body


def table(name: bytes, *parts: bytes) -> bytes:
    """A box with a version and flags of 0."""
    return box(name, bytes(4), *parts)


def track(
    samples: int = 1,
    *,
    sizes: bytes | None = None,
    times: bytes | None = None,
    more: bytes = b"",
    edits: bytes = b"",
) -> bytes:
    """A track of MPEG-4 video of 64 x 48 pixels whose samples are a byte each."""
    entry = box(
        b"mp4v", bytes(6), b"\0\1", bytes(16), struct.pack(">HH", 64, 48), bytes(14), b"\0\1",
        bytes(32), b"\0\x18\xff\xff",
    )  # fmt: skip
    samples_box = box(
        b"stbl",
        table(b"stsd", numbers(1), entry),
        times or table(b"stts", numbers(1, samples, 1)),
        sizes or table(b"stsz", numbers(1, samples)),
        table(b"stsc", numbers(1, 1, samples, 1)),
        table(b"stco", numbers(1, 48)),
        more,
    )
    media = box(
        b"mdia",
        table(b"mdhd", numbers(0, 0, 1000, samples), bytes(4)),
        table(b"hdlr", bytes(4), b"vide", bytes(13)),
        box(b"minf", table(b"vmhd", bytes(8)), samples_box),
    )
    return box(b"trak", table(b"tkhd", numbers(0, 0, 1, 0, samples), bytes(60)), edits, media)


def mp4(*parts: bytes, after: bytes = b"") -> bytes:
    """An MP4 with these boxes in its header, and some behind its media."""
    header = box(b"moov", table(b"mvhd", numbers(0, 0, 1000, 1000), bytes(80)), *parts)
    return box(b"ftyp", b"isom\0\0\0\0isom") + header + box(b"mdat", bytes(4096)) + after


def fragment(samples: int) -> bytes:
    """A fragment of an MP4 with so many samples, without a size for each."""
    run = table(b"trun", numbers(samples))
    head = box(b"tfhd", numbers(0x20000, 1))
    return box(b"moof", table(b"mfhd", numbers(1)), box(b"traf", head, run))


def compressed_header(header: bytes) -> bytes:
    """A header as QuickTime compresses it."""
    data = numbers(len(header)) + zlib.compress(header, 9)
    return box(b"moov", box(b"cmov", box(b"dcom", b"zlib"), box(b"cmvd", data)))


def element(number: str, body: bytes) -> bytes:
    """An element of Matroska, its number in hexadecimal digits."""
    return bytes.fromhex(number) + struct.pack(">Q", len(body) | 1 << 56) + body


def matroska(*parts: bytes, encodings: bytes = b"") -> bytes:
    """A Matroska file with a track of PCM, 16 bits and 48 kHz."""
    sound = element("b5", struct.pack(">d", 48_000.0)) + b"\x9f\x81\1" + b"\x62\x64\x81\x10"
    entry = b"\xd7\x81\1\x83\x81\2" + element("86", b"A_PCM/INT/LIT") + element("e1", sound)
    return element("1a45dfa3", element("4282", b"matroska")) + element(
        "18538067",
        element("1549a966", element("2ad7b1", numbers(1_000_000)))
        + element("1654ae6b", element("ae", entry + encodings))
        + b"".join(parts),
    )


def cluster(*blocks: bytes) -> bytes:
    """A cluster of blocks of the first track, each at the beginning."""
    parts = (element("a3", b"\x81\0\0\x80" + block) for block in blocks)
    return element("1f43b675", b"\xe7\x81\0" + b"".join(parts))


def matroska_tags(count: int) -> bytes:
    """A Matroska file with so many tags, each of another name."""
    tags = (b"\x67\xc8\x8d\x45\xa3\x86%06x\x44\x87\x81a" % number for number in range(count))
    return matroska(element("1254c367", element("7373", b"".join(tags))), cluster(bytes(960)))


def compressed_blocks(count: int) -> bytes:
    """A Matroska file whose blocks inflate to 9 MB each."""
    block = zlib.compress(bytes(9_000_000), 9)
    encodings = element("6d80", element("6240", element("5034", b"\x42\x54\x81\0")))
    return matroska(cluster(*[block] * count), encodings=encodings)


def id3(*frames: bytes) -> bytes:
    """An ID3 tag of version 2.4."""
    body = b"".join(frames)
    return b"ID3\4\0\0" + _sevens(len(body)) + body


def id3_frame(name: bytes, body: bytes, flags: int = 0) -> bytes:
    """A frame of an ID3 tag."""
    return name + _sevens(len(body)) + bytes([0, flags]) + body


def id3_compressed(name: bytes, body: bytes) -> bytes:
    """A frame that is compressed, with its length."""
    return id3_frame(name, numbers(len(body)) + zlib.compress(body, 9), 9)


def _sevens(number: int) -> bytes:
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))


def flac(*blocks: tuple[int, bytes]) -> bytes:
    """A FLAC file of these blocks, each of a kind, and no sound."""
    about = struct.pack(">HH", 4096, 4096) + bytes(6)
    about += (8000 << 44 | 15 << 36 | 8000).to_bytes(8, "big") + bytes(16)
    parts = [bytes([kind]) + numbers(len(body))[1:] + body for kind, body in ((0, about), *blocks)]
    return b"fLaC" + b"".join(parts) + b"\x81\0\0\0"


def comments(count: int) -> bytes:
    """Vorbis comments, each of another name."""
    texts = (b"%06x=a" % number for number in range(count))
    return struct.pack("<II", 0, count) + b"".join(struct.pack("<I", 8) + text for text in texts)


def ogg_film(count: int) -> bytes:
    """An Ogg file of VP8 with so many comments and one frame, without checksums."""
    about = b"OVP80\1\1\0" + struct.pack(">HH", 64, 48) + b"\0\0\1\0\0\1" + numbers(25, 1)
    texts = b"OVP80\2 " + comments(count)
    parts = [texts[at : at + 255 * 255] for at in range(0, len(texts), 255 * 255)]
    pages = [_page(about, 2)] + [_page(part, bool(number)) for number, part in enumerate(parts)]
    return b"".join(pages) + _page(bytes(10), 4)


def _page(body: bytes, flags: int) -> bytes:
    lacing = b"\xff" * (len(body) // 255)
    lacing += bytes([len(body) % 255]) if len(lacing) < 255 else b""
    head = b"OggS\0" + bytes([flags]) + bytes(8) + numbers(1, 0, 0)
    return head + bytes([len(lacing)]) + lacing + body


def caf(count: int) -> bytes:
    """A CAF file of a second, with so many tags."""
    about = struct.pack(">d", 8000.0) + b"lpcm" + numbers(0, 2, 1, 1, 16)
    tags = numbers(count) + b"".join(b"%05x\0a\0" % number for number in range(count))
    chunks = ((b"desc", about), (b"info", tags), (b"data", bytes(16_004)))
    parts = (name + struct.pack(">Q", len(body)) + body for name, body in chunks)
    return b"caff\0\1\0\0" + b"".join(parts)


def riff_tags(count: int) -> bytes:
    """A WAV file of A-law with so many tags, each of another name."""
    tags = b"INFO" + b"".join(b"%04x\2\0\0\0a\0" % number for number in range(count))
    form = struct.pack("<HHIIHH", 0x55, 1, 8000, 16_000, 2, 16)
    chunks = ((b"fmt ", form), (b"LIST", tags), (b"data", bytes(16_000)))
    body = b"WAVE" + b"".join(name + struct.pack("<I", len(data)) + data for name, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def transport(tables: int, repeats: int = 1, size: int = 188) -> bytes:
    """An MPEG-TS with tables of 42 programmes each, in packets of `size` bytes."""
    return b"".join(_programmes(number, size) for number in range(tables)) * repeats


def _programmes(number: int, size: int) -> bytes:
    entries = range(42 * number, 42 * number + 42)
    section = b"\0" + struct.pack(">H", 0xB000 | 177) + b"\0\1\xc1\0\0"
    section += b"".join(struct.pack(">HH", 1 + at, 0xE020 + at % 8000) for at in entries)
    section += numbers(_checksum(section))
    return (b"\x47\x40\0\x10\0" + section).ljust(188, b"\xff") + bytes(size - 188)


def _checksum(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
    return crc
