"""Encrypted streams are detected."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.media.headers.encryption import encrypted_kinds
from model.media.reader import Unusable, read_clip, read_sound
from tests.model.media_files import clip, tone

pytestmark = pytest.mark.filterwarnings("error")

_KEY = "00112233445566778899aabbccddeeff"
_CENC = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": _KEY, "encryption_kid": _KEY}
_TS_PACKET = 188


def assert_called_encrypted(data: bytes) -> None:
    with pytest.raises(Unusable, match=r"its picture is encrypted.*; its sound is encrypted"):
        read_clip(data, 2)
    with pytest.raises(Unusable, match="its picture is encrypted"):
        read_clip(data, 2, sound=False)
    with pytest.raises(Unusable, match="its sound is encrypted; send it without encryption"):
        read_sound(data)


@pytest.mark.parametrize("kind", ["mp4", "mov"])
@pytest.mark.parametrize("muxer", [{}, {"movflags": "frag_keyframe+empty_moov"}])
def test_common_encryption_of_an_mp4(kind: str, muxer: dict[str, str]) -> None:
    data = clip(kind, sound=tone(1, 48_000), muxer=muxer | _CENC)
    assert_called_encrypted(data)


def test_pictures_are_read_if_only_the_sound_is_encrypted() -> None:
    clear = clip(sound=tone(1, 48_000))
    data = clear.replace(b"mp4a", b"drms")  # as Apple calls it
    mixed = read_clip(data, 2)
    assert mixed.pictures is not None
    assert mixed.sound is None
    assert mixed.sound_problem == "its sound is encrypted; send it without encryption (DRM)"
    blind = read_clip(clear.replace(b"avc1", b"encv"), 2)
    assert blind.sound is not None
    assert blind.pictures is None


def _element(number: bytes, *contents: bytes) -> bytes:
    content = b"".join(contents)
    return number + (1 << 56 | len(content)).to_bytes(8, "big") + content


def _encrypted_webm(clear: bytes) -> bytes:
    """The live WebM with ContentEncryption in each of its tracks, as Widevine's packager has it."""
    encryption = _element(
        b"\x6d\x80",  # ContentEncodings
        _element(
            b"\x62\x40",
            _element(b"\x50\x33", b"\1"),  # ContentEncodingType: encryption
            _element(b"\x50\x35", _element(b"\x47\xe1", b"\5"), _element(b"\x47\xe2", bytes(16))),
        ),
    )
    at = clear.rindex(b"\x16\x54\xae\x6b")  # not where the file's index names it
    size, head = _sized(clear, at + 4)
    tracks, rest = clear[head : head + size], clear[head + size :]
    entries, place = [], 0
    while place < len(tracks):
        length, begin = _sized(tracks, place + 1)
        if tracks[place] == 0xAE:
            entries.append(_element(b"\xae", tracks[begin : begin + length], encryption))
        place = begin + length
    return clear[:at] + _element(b"\x16\x54\xae\x6b", *entries) + rest


def _sized(data: bytes, at: int) -> tuple[int, int]:
    """The length that is written there, and where it ends."""
    length = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + length], "big") & ((1 << 7 * length) - 1)
    return value, at + length


def test_content_encryption_of_a_webm() -> None:
    clear = clip(
        "webm", "libvpx", sound=tone(1, 48_000), sound_codec="libopus", muxer={"live": "1"}
    )
    assert encrypted_kinds(clear) == frozenset()
    assert_called_encrypted(_encrypted_webm(clear))


@pytest.mark.parametrize(
    "mark",
    [
        "fbb31122 23bdd211b4b700a0c955fc6e",
        "14e68a29 2226174cb935dae07ee9289c",
        "33850543 8169e6499b74ad12cb86d58c",
    ],
)
def test_drm_of_a_windows_media_file(mark: str) -> None:
    clear = clip("asf", "wmv2", sound=tone(1, 48_000), sound_codec="pcm_s16le")
    assert encrypted_kinds(clear) == frozenset()
    content = bytes.fromhex(mark.replace(" ", "")) + (24 + 8).to_bytes(8, "little") + bytes(8)
    header = int.from_bytes(clear[16:24], "little")
    parts = int.from_bytes(clear[24:28], "little")
    sizes = (header + len(content)).to_bytes(8, "little") + (parts + 1).to_bytes(4, "little")
    data = clear[:16] + sizes + clear[28:30] + content + clear[30:]
    assert encrypted_kinds(data) == {"audio", "video"}
    with pytest.raises(Unusable, match="is encrypted"):  # FFmpeg opens not all of them
        read_clip(data, 2)


def test_a_scrambled_mpeg_ts() -> None:
    clear = bytearray(clip("mpegts", sound=tone(1, 48_000)))
    assert encrypted_kinds(bytes(clear)) == frozenset()
    for at in range(0, len(clear), _TS_PACKET):
        if (clear[at + 1] & 0x1F) == 1:  # the streams' packets, not the tables
            clear[at + 3] |= 0xC0
    assert_called_encrypted(bytes(clear))


def test_encrypted_samples_of_an_mpeg_ts() -> None:
    clear = clip("mpegts", sound=tone(1, 48_000))
    entries = (b"\x1b\xe1\x00\xf0", b"\xdb\xe1\x00\xf0"), (b"\x0f\xe1\x01\xf0", b"\xcf\xe1\x01\xf0")
    data = clear
    for entry, encrypted in entries:
        assert entry in data
        data = data.replace(entry, encrypted)
    assert encrypted_kinds(data) == {"audio", "video"}
    assert encrypted_kinds(clear.replace(*entries[0])) == {"video"}


_HEADS = (
    b"",
    b"\x47\x40\x00\x10\x00",
    b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\xff\x16\x54\xae\x6b",
    bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c"),
    b"\0\0\1\0moov\0\0\0\xf8trak\0\0\0\xf0mdia",
)


@given(st.sampled_from(_HEADS), st.binary(max_size=600))
def test_detection_accepts_any_bytes(head: bytes, rest: bytes) -> None:
    assert encrypted_kinds(head + rest) <= {"audio", "video"}
