"""What a file is by its first bytes, for messages about files in the wrong place."""

from __future__ import annotations

from typing import Literal

from model.media.picture.header import detect_format

Content = Literal["video", "sound", "picture", "recording of events", "archive of arrays"]

#: Kinds of streams (`Spec.kind`) that a file of each content may be for.
KINDS_OF: dict[Content, frozenset[str]] = {
    "video": frozenset({"frames", "spectrogram"}),
    "sound": frozenset({"spectrogram"}),
    "picture": frozenset({"frames"}),
    "recording of events": frozenset({"events"}),
    "archive of arrays": frozenset({"events", "audio_events", "series"}),
}
#: First bytes, the offset that they are at, and what the file is. Containers of both kinds, such as
#: Ogg, are what they usually have.
_SIGNATURES: tuple[tuple[int, bytes, Content], ...] = (
    *((8, brand, "sound") for brand in (b"M4A ", b"M4B ")),
    *((4, box, "video") for box in (b"ftyp", b"moov", b"mdat", b"moof", b"wide", b"free")),
    (0, b"\x1a\x45\xdf\xa3", "video"),
    (0, b"FLV\x01", "video"),
    (8, b"AVI ", "video"),
    (0, b"\x00\x00\x01\xba", "video"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "video"),
    (8, b"WAVE", "sound"),
    (8, b"AIF", "sound"),
    *((0, head, "sound") for head in (b"fLaC", b"OggS", b"ID3", b"caff", b"#!AMR", b".snd")),
    *((0, head, "sound") for head in (b"\xff\xfb", b"\xff\xf3", b"\xff\xf1", b"\xff\xf9")),
    *((0, head, "recording of events") for head in (b"#!AER-DAT", b"% ")),
    (0, b"PK\x03\x04", "archive of arrays"),
)


def content_of(data: bytes) -> Content | None:
    """Return what a file is by its signature; None for none of these."""
    if detect_format(data) is not None:
        return "picture"
    return next(
        (content for offset, head, content in _SIGNATURES if data.startswith(head, offset)), None
    )
