"""Small files that require much work are refused before they are decoded."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.media.headers import jpeg, png
from model.media.headers.id3 import strip_leading_tags
from model.media.reader import Limits, TooLarge, read_clip, read_picture, read_sound
from tests.model import costly_pictures, media_files

MIB = 1 << 20
TEXT = b"Comment\0"


def zipped(length: int) -> bytes:
    return zlib.compress(bytes(length), 1)


#: Chunks that inflate to a number of bytes.
INFLATED: dict[str, Callable[[int], bytes]] = {
    "zTXt": lambda n: costly_pictures.chunk(b"zTXt", TEXT + b"\0" + zipped(n)),
    "iTXt": lambda n: costly_pictures.chunk(b"iTXt", TEXT + b"\1\0en\0x\0" + zipped(n)),
    "iCCP": lambda n: costly_pictures.chunk(b"iCCP", TEXT + b"\0" + zipped(n)),
}


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (costly_pictures.gif(5760, 5760, 31), "31 pictures of 5760 x 5760"),
        (costly_pictures.apng(5760, 5760, 31), "31 pictures of 5760 x 5760"),
        (costly_pictures.jpeg(5760, 5760, 40), "more than 30 scans"),
        (costly_pictures.png(INFLATED["zTXt"](9 * MIB) * 2), "16777216 bytes"),
        (costly_pictures.png(after=INFLATED["zTXt"](9 * MIB) * 2), "16777216 bytes"),
        (costly_pictures.png(pixels=zipped(17 * MIB)), "16777216 bytes"),
        (costly_pictures.apng(8, 8, 3, surplus=17 * MIB), "16777216 bytes"),
    ],
    ids=["gif", "apng", "scans", "texts", "texts-behind", "pixels", "apng-pixels"],
)
def test_the_work_that_a_few_bytes_require_is_limited(data: bytes, what: str) -> None:
    with pytest.raises(TooLarge, match=what):
        read_clip(data, 4)


@pytest.mark.slow
def test_the_limits_can_be_raised() -> None:
    limits = Limits(max_composed_pixels=1 << 40, max_inflated_bytes=1 << 30)
    for data in (
        costly_pictures.gif(3000, 3000, 112),
        costly_pictures.png(INFLATED["zTXt"](9 * MIB) * 2),
    ):
        with pytest.raises(TooLarge):
            read_clip(data, 1)
        clip = read_clip(data, 1, limits=limits)
        assert clip.pictures is not None


def test_ordinary_files_stay_far_below_the_limits() -> None:
    for data in (costly_pictures.gif(480, 270, 300), costly_pictures.apng(512, 512, 180)):
        clip = read_clip(data, 4)
        assert clip.pictures is not None
        assert len(clip.pictures.frames) == 4
    # A phone's, with as many scans as libjpeg writes.
    assert read_picture(costly_pictures.jpeg(4080, 3072, 9)).shape == (3072, 4080, 3)
    profile = INFLATED["iTXt"](MIB)
    assert read_picture(costly_pictures.png(profile)).shape == (8, 8, 3)


@given(st.sampled_from(sorted(INFLATED)), st.integers(0, 300_000), st.integers(1, 4))
@settings(max_examples=60)
def test_inflated_bytes_of_chunks_count_exactly(kind: str, length: int, count: int) -> None:
    data = costly_pictures.png(INFLATED[kind](length) * count)
    png.check_inflated(data, Limits(max_inflated_bytes=length * count))
    if length:
        with pytest.raises(TooLarge):
            png.check_inflated(data, Limits(max_inflated_bytes=length * count - 1))


@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.sampled_from([(0, 1), (0, 16), (2, 8), (3, 4), (4, 8), (6, 16)]),
    st.integers(0, 8),
)
@settings(max_examples=60)
def test_the_pixels_of_a_complete_picture_are_not_surplus(
    width: int, height: int, form: tuple[int, int], level: int
) -> None:
    color, depth = form
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    row = 1 + -(-width * samples * depth // 8)
    noise = np.random.default_rng(width).integers(0, 256, row * height, np.uint8).tobytes()
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + costly_pictures.chunk(b"IHDR", head)
    data += costly_pictures.chunk(b"IDAT", zlib.compress(noise, level)) + costly_pictures.chunk(
        b"IEND", b""
    )
    png.check_inflated(data, Limits(max_inflated_bytes=0))


@given(st.integers(0, 40), st.integers(1, 40))
@settings(max_examples=40)
def test_scans_count_exactly(scans: int, most: int) -> None:
    data = costly_pictures.jpeg(64, 64, scans)
    limits = Limits(max_composed_pixels=64 * 64 * most)
    if scans + 1 <= most:
        jpeg.check_scans(data, 64, 64, limits)
    else:
        with pytest.raises(TooLarge, match=f"more than {most} scans"):
            jpeg.check_scans(data, 64, 64, limits)


def test_scans_of_a_thumbnail_or_behind_the_end_do_not_count() -> None:
    hidden = costly_pictures.jpeg(8, 8, 20)
    data = costly_pictures.jpeg(64, 64, 0)
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(hidden)) + hidden + data[2:] + hidden
    jpeg.check_scans(data, 64, 64, Limits(max_composed_pixels=64 * 64))
    assert jpeg.read_size(data) == (64, 64)


@given(st.binary(max_size=200), st.integers(0, 400))
@settings(max_examples=200)
def test_parsing_any_bytes_terminates(noise: bytes, at: int) -> None:
    for data in (costly_pictures.png(INFLATED["iTXt"](20)), costly_pictures.jpeg(16, 16, 2)):
        damaged = data[:at] + noise + data[at:]
        jpeg.read_size(damaged)
        png.read_size(damaged)
        jpeg.check_scans(damaged, 16, 16, Limits())
        png.check_inflated(damaged, Limits())


def test_chunks_and_segments_are_limited() -> None:
    with pytest.raises(TooLarge, match="chunks; at most 100000"):
        read_picture(costly_pictures.png(costly_pictures.chunk(b"teXt", b"") * 100_001))
    with pytest.raises(TooLarge, match="segments; at most 100000"):
        read_picture(b"\xff\xd8" + b"\xff\xfe\0\2" * 100_001)


def test_ogg_pages_are_limited() -> None:
    with pytest.raises(TooLarge, match="Ogg pages; at most 100000"):
        read_sound(b"OggS" * 200_000)


def test_a_few_leading_tags_are_skipped_and_many_are_not() -> None:
    tag, wav = b"ID3\4" + bytes(6), media_files.sound_file(media_files.tone(0.1, 8000), 8000, "WAV")
    assert read_sound(tag * 3 + wav).sample_rate == 8000
    assert strip_leading_tags(tag * 5000 + wav).startswith(tag)


def test_pictures_that_are_not_requested_are_not_composed() -> None:
    clip = media_files.clip(sound=media_files.tone(0.5, 48_000))
    assert (
        read_clip(clip, 1, pictures=False, limits=Limits(max_composed_pixels=1)).sound is not None
    )
