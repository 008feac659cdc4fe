"""Strip ID3 tags from files of formats other than MP3."""

from __future__ import annotations

_TAG = b"ID3"
_HEAD_BYTES = 10
#: Largest number of tags that are skipped.
_MAX_TAGS = 1000
_FOOTER = 0x10
#: Signatures of formats that have no ID3 tags of their own: (offset, bytes). MP3 and AAC are not
#: among them: their tags may hold cover art.
_FILES: tuple[tuple[int, bytes], ...] = (
    *((0, head) for head in (b"RIFF", b"RIFX", b"RF64", b"BW64", b"riff", b"FORM", b"fLaC")),
    *((0, head) for head in (b"OggS", b"caff", b".snd", b"#!AMR", b"FLV\x01", b"TTA", b"wvpk")),
    *((0, head) for head in (b"\x1a\x45\xdf\xa3", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11")),
    *((0, head) for head in (b"Creative Voice File", b"NIST_1A", b"\x0b\x77", b"\x64\xa3")),
    *((4, box) for box in (b"ftyp", b"moov", b"mdat", b"moof", b"wide", b"free", b"skip")),
)


def strip_leading_tags(data: bytes) -> bytes:
    """Return the file without leading ID3v2 tags if its format has none; else unchanged."""
    start = 0
    for _ in range(_MAX_TAGS):
        if not data.startswith(_TAG, start) or start + _HEAD_BYTES > len(data):
            break
        sizes = data[start + 6 : start + _HEAD_BYTES]
        size = sum(
            (byte & 0x7F) << shift for byte, shift in zip(sizes, (21, 14, 7, 0), strict=True)
        )
        footer = _HEAD_BYTES if data[start + 5] & _FOOTER else 0
        start += _HEAD_BYTES + size + footer
    if start and any(data.startswith(mark, start + offset) for offset, mark in _FILES):
        return data[start:]
    return data
