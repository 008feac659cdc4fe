"""Lists in headers are counted before a library reads them."""

from __future__ import annotations

import struct
import zlib

import pytest
from av.packet import Packet
from hypothesis import given, settings
from hypothesis import strategies as st

from model.media.bounded_input import BoundedInput
from model.media.headers.header_counts import MAX_TAGS, check_header_counts
from model.media.headers.mp4_tables import check_tables
from model.media.reader import Limits, TooLarge, read_clip, read_sound
from tests.model import costly_headers, costly_pictures, media_files
from tests.model.costly_headers import box, mp4, numbers, table, track

pytestmark = pytest.mark.slow

MIB = 1 << 20
MANY = 2_000_000


def edit_list(count: int) -> bytes:
    """So many edits, each of 1000 samples."""
    return box(b"edts", table(b"elst", numbers(count), numbers(1000, 0, 0x10000) * count))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (mp4(track(MANY)), "entries or samples"),
        (mp4(track(times=table(b"stts", numbers(MANY), numbers(1, 1)))), "entries or samples"),
        (mp4(track(more=table(b"ctts", numbers(MANY)))), "entries or samples"),
        (mp4(track(sizes=table(b"stsz", numbers(0, MANY)))), "entries or samples"),
        (mp4(track(2000, edits=edit_list(2000))), "entries or samples"),
        (mp4(track(), after=costly_headers.fragment(MANY)), "entries or samples"),
        (costly_headers.compressed_header(track(MANY)), "entries or samples"),
        (costly_headers.compressed_header(bytes(17 * MIB)), "16777216 bytes"),
        (mp4(track(), box(b"free") * 100_001), "boxes; at most 100000"),
        (mp4(track(60_001), after=box(b"free", bytes(70_000))), "packets; at most 60000"),
        (costly_headers.matroska_tags(MAX_TAGS + 1), "5000"),
        (costly_headers.compressed_blocks(3), "size of the file and 16777216 bytes"),
        (costly_headers.matroska(costly_headers.cluster(*[b"ab"] * 60_001)), "at most 60000"),
        (costly_headers.flac((4, costly_headers.comments(MAX_TAGS + 1))), "5000"),
        (costly_headers.flac(*[(1, b"")] * 10_001), "blocks; at most 10000"),
        (costly_headers.caf(MAX_TAGS + 1), "5000"),
        (costly_headers.ogg_film(MAX_TAGS + 6000), "5000"),
        (costly_headers.id3(*[costly_headers.id3_frame(b"TXXX", b"\0a\0b")] * 5001), "5000"),
        (costly_headers.id3(costly_headers.id3_compressed(b"TXXX", bytes(17 * MIB))), "16777216"),
        (costly_headers.id3(costly_headers.id3_compressed(b"CHAP", bytes(30))), "ID3"),
        (costly_headers.id3() * 1002, "ID3 tags; at most 1000"),
        (costly_headers.transport(25), "1000 programmes"),
        (costly_headers.transport(25, size=192), "1000 programmes"),
        (costly_headers.transport(10, repeats=100), "1000 programmes"),
    ],
    ids=[
        *("samples", "stts", "ctts", "stsz", "edits", "fragment", "cmov", "cmov-bomb", "boxes"),
        *("mp4-packets", "matroska-tags", "matroska-zlib", "matroska-packets", "flac-comments"),
        *(
            "flac-blocks",
            "caf-tags",
            "ogg-comments",
            "id3",
            "id3-zlib",
            "id3-chapter",
            "id3-tags",
            "programmes",
        ),
        *("m2ts-programmes", "programmes-again"),
    ],
)
def test_the_length_of_lists_in_headers_is_limited(data: bytes, what: str) -> None:
    # A busy machine may take longer to list packets than the clock of a file allows.
    limits = Limits(max_demux_cpu_s=60.0)
    with pytest.raises(TooLarge, match=what):
        read_clip(data, 4, limits=limits)


def test_reading_many_tags_is_stopped_by_the_cpu_time() -> None:
    with pytest.raises(TooLarge, match=r"headers and packets takes more than .* of CPU time"):
        read_clip(costly_headers.riff_tags(60_000), 1)


def test_only_opening_and_demuxing_count_as_cpu_time() -> None:
    file = BoundedInput(bytes(range(10)), 0.0)
    assert file.read(3) == b"\0\1\2"
    file.start_clock()
    assert file.read(3) == b""
    assert file.readinto(bytearray(3)) == 0
    with pytest.raises(TooLarge, match="0 s of CPU time"):
        file.stop_clock()
    with pytest.raises(TooLarge), BoundedInput(b"", 0.0).measure() as _:
        raise_after_reading(0.0)


def raise_after_reading(limit_s: float) -> None:
    """As a library does that finds a file cut short."""
    file = BoundedInput(b"a", limit_s)
    with file.measure():
        file.read(1)
        raise ValueError


@pytest.mark.parametrize("kind", ["mp4", "matroska", "mpegts", "avi", "flv"])
def test_a_cpu_time_of_zero_refuses_every_container(kind: str) -> None:
    data = media_files.clip(kind, "mpeg4" if kind in ("avi", "matroska") else "libx264")
    with pytest.raises(TooLarge, match=r"headers and packets takes more than .* of CPU time"):
        read_clip(data, 2, limits=Limits(max_demux_cpu_s=0.0))


def test_ordinary_files_stay_below_the_limits() -> None:
    fragments = media_files.clip("mp4", muxer={"movflags": "frag_every_frame+empty_moov"})
    tagged = costly_headers.id3(
        *(costly_headers.id3_frame(b"TXXX", b"\0%d\0b" % number) for number in range(500)),
        costly_headers.id3_frame(b"APIC", b"\0image/png\0\3\0" + costly_pictures.png()),
    )
    tone = media_files.sound_file(media_files.tone(1, 8000), 8000, "WAV")
    assert read_sound(tagged + tone).duration_s == 1
    for data in (
        fragments,
        media_files.clip("mpegts"),
        media_files.clip("matroska"),
        media_files.clip("flv"),
    ):
        pictures = read_clip(data, 5).pictures
        assert pictures is not None
        assert [media_files.number_of(frame) for frame in pictures.frames] == [1, 3, 5, 7, 9]
    check_header_counts(costly_headers.transport(3, repeats=60), Limits())


def test_limits_of_lists_scale_with_the_duration_limit() -> None:
    data = mp4(track(MANY))
    check_tables(data, Limits(max_duration_s=300))
    with pytest.raises(TooLarge):
        check_tables(data, Limits(max_duration_s=1))


@given(st.integers(1, 900), st.integers(1, 900))
@settings(max_examples=40)
def test_samples_count_once_for_each_edit(samples: int, edits: int) -> None:
    limits = Limits(max_duration_s=6)
    data = mp4(track(1000 * samples, edits=edit_list(edits)))
    if 1000 * samples * edits + 2 * edits + 10 < 1_000_000:
        check_tables(data, limits)
    elif 1000 * samples * edits > 1_000_000:
        with pytest.raises(TooLarge):
            check_tables(data, limits)


@given(st.binary(max_size=200), st.integers(0, 900))
@settings(max_examples=200)
def test_parsing_any_headers_terminates(noise: bytes, at: int) -> None:
    files = (
        mp4(track(edits=edit_list(3)), after=costly_headers.fragment(3)),
        costly_headers.matroska_tags(3),
        costly_headers.flac((4, costly_headers.comments(3))),
        costly_headers.caf(3),
        costly_headers.ogg_film(6000),
        costly_headers.id3(costly_headers.id3_compressed(b"TIT2", b"\0abc")),
        costly_headers.transport(3),
    )
    for data in files:
        damaged = data[:at] + noise + data[at:]
        try:
            check_header_counts(damaged, Limits())
            check_tables(damaged, Limits())
        except TooLarge:
            pass


def repeated(packets: list[Packet], times: int) -> list[Packet]:
    """The packets with those behind the first one again and again, 1 ms each."""
    key, *others = packets
    copies = [key, *others * times]
    again = []
    for number, packet in enumerate(copies):
        copy = media_files.with_data(packet, bytes(packet))
        copy.pts = copy.dts = round(number / 1000 / packet.time_base)
        copy.is_keyframe = not number
        again.append(copy)
    return again


@pytest.mark.parametrize(
    ("kind", "codec", "encoder"),
    [
        ("mp4", "libx264", {"bf": "0"}),
        ("matroska", "libvpx-vp9", {}),
        ("mp4", "mpeg4", {}),
    ],
)
def test_frames_without_changes_count(kind: str, codec: str, encoder: dict[str, str]) -> None:
    frames = [media_files.quadrants()] * 10
    like = media_files.clip(kind, codec, frames, range(0, 1000, 100), group=100, encoder=encoder)
    data = media_files.packed(kind, repeated(media_files.packets_of(like), 20), like=like)
    count = 1 + 9 * 20
    # What H.264 lacks by the numbers of its frames is looked for by decoding them again.
    fitting = Limits(max_decoded_pixels=(3 if codec == "libx264" else 1) * count * 64 * 48)
    assert read_clip(data, 4, limits=fitting).pictures is not None
    with pytest.raises(TooLarge, match=r"decoding \d+ frames of 64 x 48 pixels; .* may be at most"):
        read_clip(data, 4, limits=Limits(max_decoded_pixels=count // 2 * 64 * 48))


def test_a_minute_of_full_hd_is_decoded() -> None:
    assert Limits.max_decoded_pixels > 60 * 60 * 1920 * 1080
    assert Limits.max_decoded_pixels > 60 * 30 * 3840 * 2160


def film_of(codec: str, pictures: list[bytes]) -> bytes:
    """A Matroska clip whose packets are these pictures, 64 x 48 or as they say."""
    pixels = "yuvj420p" if codec == "mjpeg" else "rgb24"
    like = media_files.clip("mov", codec, pixels=pixels, group=1)
    key, *_ = media_files.packets_of(like)
    packets = [media_files.with_data(key, data) for data in pictures]
    for number, packet in enumerate(packets):
        packet.pts = packet.dts = round(number / 10 / key.time_base)
    return media_files.packed("mov", packets, like=like)


ZTXT = costly_pictures.chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(9 * MIB), 9))


@pytest.mark.parametrize(
    ("codec", "picture", "limits", "what"),
    [
        (
            "mjpeg",
            costly_pictures.jpeg(64, 48, 40),
            Limits(max_composed_pixels=100 * 64 * 48),
            "scans",
        ),
        ("png", costly_pictures.png(ZTXT), Limits(), "16777216 bytes"),
        (
            "png",
            costly_pictures.png(pixels=zlib.compress(bytes(9 * MIB), 9)),
            Limits(),
            "16777216 bytes",
        ),
    ],
    ids=["scans", "texts", "surplus"],
)
def test_pictures_in_a_video_count_together(
    codec: str, picture: bytes, limits: Limits, what: str
) -> None:
    assert read_clip(film_of(codec, [picture]), 1, limits=limits).pictures is not None
    with pytest.raises(TooLarge, match=what):
        read_clip(film_of(codec, [picture] * 4), 4, limits=limits)


@pytest.mark.parametrize("size", [(70_000, 70_000), (5760, 5760)])
def test_an_apng_that_is_too_large_is_refused_before_inflating(size: tuple[int, int]) -> None:
    width, height = size
    head = costly_pictures.chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
    control = costly_pictures.chunk(
        b"fcTL", struct.pack(">IIIIIHHBB", 0, width, height, 0, 0, 20, 1000, 0, 0)
    )
    data = b"\x89PNG\r\n\x1a\n" + head + costly_pictures.chunk(b"acTL", struct.pack(">II", 31, 0))
    data += (control + costly_pictures.chunk(b"IDAT", b"not a zlib stream")) * 31
    data += costly_pictures.chunk(b"IEND", b"")
    with pytest.raises(TooLarge, match=r"accepted|31 pictures"):
        read_clip(data, 1)


def test_texts_of_a_png_are_limited() -> None:
    texts = (costly_pictures.chunk(b"tEXt", b"%06d\0a" % number) for number in range(2001))
    with pytest.raises(TooLarge, match="texts; at most 2000"):
        read_clip(costly_pictures.apng(8, 8, 2)[:-12] + b"".join(texts), 1)
