"""Containers: selection and display of frames, and sound."""

from __future__ import annotations

import io
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import cache
from itertools import product
from pathlib import Path
from threading import Barrier
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition
from hypothesis import given, settings
from hypothesis import strategies as st

from model.media.reader import (
    Limits,
    MediaError,
    Pictures,
    Sound,
    TooLarge,
    UnknownFormat,
    Unusable,
    read_clip,
)
from model.media.video import frame_decoder, frames
from tests.model.media_files import (
    SIZE,
    Bytes,
    clip,
    damaged,
    number_of,
    numbered,
    packed,
    packets_of,
    quadrants,
    sound_file,
    tone,
    turned,
    units,
    with_data,
    without_reordering,
)

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.slow]

CONTAINERS = [
    ("mp4", "libx264", "aac"),
    ("mp4", "mpeg4", "aac"),
    ("mov", "libx264", "pcm_s16le"),
    ("webm", "libvpx", "libopus"),
    ("webm", "libvpx-vp9", "libopus"),
    ("matroska", "libx264", "flac"),
    ("avi", "mpeg4", "pcm_s16le"),
    ("avi", "libx264", "pcm_s16le"),
    ("flv", "flv", "aac"),
    ("flv", "libx264", "aac"),
    ("mpegts", "libx264", "aac"),
    ("3gp", "libx264", "aac"),
]

DEFAULTS = Limits()


def pictures_of(data: bytes, frames: int, limits: Limits = DEFAULTS) -> Pictures:
    pictures = read_clip(data, frames, sound=False, limits=limits).pictures
    assert pictures is not None
    return pictures


def sound_of(data: bytes, limits: Limits = DEFAULTS) -> Sound:
    sound = read_clip(data, 1, pictures=False, limits=limits).sound
    assert sound is not None
    return sound


def numbers_of(data: bytes, frames: int) -> list[int]:
    return [number_of(picture) for picture in pictures_of(data, frames).frames]


def all_decoded(data: bytes) -> list[Bytes]:
    """Every frame of a clip, by the plainest use of PyAV."""
    with av.open(io.BytesIO(data)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def assert_is_frame(picture: Bytes, index: int, every: list[Bytes]) -> None:
    errors = [np.abs(picture.astype(int) - frame.astype(int)).mean() for frame in every]
    assert errors[index] == min(errors) < 1


# --- which frames --------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "codec", "sound_codec"), CONTAINERS)
def test_frames_are_those_at_the_centres_of_equal_parts_of_the_time(
    kind: str, codec: str, sound_codec: str
) -> None:
    data = clip(kind, codec)
    pictures = pictures_of(data, 4)
    assert [number_of(picture) for picture in pictures.frames] == [1, 3, 6, 8]
    assert pictures.times_s == pytest.approx([0.1, 0.3, 0.6, 0.8], abs=2e-3)
    assert all(picture.shape == (*SIZE, 3) for picture in pictures.frames)
    assert all(picture.dtype == np.uint8 for picture in pictures.frames)


@pytest.mark.parametrize(
    ("kind", "codec", "pixels"),
    [
        ("mp4", "libx264", "yuv444p10le"),
        ("mp4", "libx265", "yuv420p10le"),
        ("mov", "libx265", "yuv422p12le"),
        ("webm", "libsvtav1", "yuv420p"),
        ("mp4", "libsvtav1", "yuv420p10le"),
        ("webm", "libvpx-vp9", "yuv444p"),
        ("webm", "libvpx-vp9", "yuva420p"),
        ("avi", "mjpeg", "yuvj420p"),
        ("avi", "msmpeg4", "yuv420p"),
        ("avi", "rawvideo", "yuyv422"),
        ("asf", "mpeg4", "yuv420p"),
        ("mov", "prores_ks", "yuv422p10le"),
        ("matroska", "ffv1", "gray16le"),
        ("apng", "apng", "rgb24"),
    ],
)
def test_high_bit_depths_and_old_codecs_are_read_alike(kind: str, codec: str, pixels: str) -> None:
    data = clip(kind, codec, pixels=pixels)
    assert numbers_of(data, 4) == [1, 3, 6, 8]


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (241, 333)])
@pytest.mark.parametrize(
    ("kind", "codec", "pixels"),
    [("mov", "png", "rgb24"), ("avi", "rawvideo", "yuv420p"), ("webm", "libvpx-vp9", "yuv420p")],
)
def test_odd_sizes_are_kept(kind: str, codec: str, pixels: str, size: tuple[int, int]) -> None:
    picture = np.full((*size, 3), (200, 40, 30), np.uint8)
    decoded = pictures_of(clip(kind, codec, [picture] * 2, pixels=pixels), 1).frames[0]
    assert decoded.shape == picture.shape
    assert np.abs(decoded.astype(int) - picture).max() <= 3


def test_a_frame_that_begins_exactly_at_the_centre_is_selected() -> None:
    for kind, codec, _ in CONTAINERS:
        assert numbers_of(clip(kind, codec), 5) == [1, 3, 5, 7, 9], (kind, codec)


def test_one_frame_is_the_one_in_the_middle() -> None:
    assert numbers_of(clip(), 1) == [5]


def test_a_clip_with_fewer_frames_than_requested_repeats_them() -> None:
    data = clip(frames=[numbered(0), numbered(9)])
    assert numbers_of(data, 6) == [0, 0, 0, 9, 9, 9]
    assert numbers_of(clip(frames=[numbered(4)]), 3) == [4, 4, 4]


@pytest.mark.parametrize(("kind", "codec"), [("mp4", "libx264"), ("matroska", "libvpx")])
def test_a_variable_frame_rate_is_sampled_by_time_and_not_by_number(kind: str, codec: str) -> None:
    times_ms = [*range(0, 1000, 100), 1000, 4000, 4100]  # frame 10 stands still for 3 s
    data = clip(kind, codec, [numbered(n) for n in range(len(times_ms))], times_ms)
    assert numbers_of(data, 4) == [5, 10, 10, 10]


def test_time_stamps_may_start_late() -> None:
    data = clip("matroska", times_ms=range(5000, 6000, 100))
    pictures = pictures_of(data, 4)
    assert [number_of(picture) for picture in pictures.frames] == [1, 3, 6, 8]
    assert pictures.times_s == pytest.approx([0.1, 0.3, 0.6, 0.8])


@pytest.mark.parametrize(("kind", "codec"), [("gif", "gif"), ("avif", "libsvtav1")])
def test_an_animated_picture_is_a_clip(kind: str, codec: str) -> None:
    assert numbers_of(clip(kind, codec), 2) == [2, 7]


def test_repeated_fragments_are_shown_once() -> None:
    data = clip(muxer={"movflags": "frag_keyframe+empty_moov"}, group=5)
    assert numbers_of(data + data, 4) == [1, 3, 6, 8]


def _of_two_streams(default: int) -> bytes:
    """An mkv of two videos and two sounds, of which one each is the default."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        streams = []
        for number in range(2):
            disposition = Disposition.default if number == default else Disposition(0)
            video = output.add_stream("ffv1", rate=10)
            video.height, video.width = SIZE
            audio = output.add_stream("pcm_f32le", rate=8000, layout="mono")
            video.disposition = audio.disposition = disposition
            streams.append((number, video, audio))
        for number, video, audio in streams:
            frame = av.VideoFrame.from_ndarray(numbered(7 + number), format="rgb24")
            sound = np.full((1, 100), 0.25 * number, np.float32)
            block = av.AudioFrame.from_ndarray(sound, format="flt", layout="mono")
            frame.pts, frame.time_base = 0, Fraction(1, 10)
            block.sample_rate, block.pts = 8000, 0
            output.mux([*video.encode(frame), *video.encode(None)])
            output.mux([*audio.encode(block), *audio.encode(None)])
    return file.getvalue()


@pytest.mark.parametrize(("default", "selected"), [(0, 0), (1, 1), (None, 0)])
def test_the_default_stream_or_else_the_first_is_selected(
    default: int | None, selected: int
) -> None:
    decoded = read_clip(_of_two_streams(-1 if default is None else default), 1)
    assert decoded.pictures is not None
    assert decoded.sound is not None
    assert number_of(decoded.pictures.frames[0]) == 7 + selected
    assert decoded.sound.samples.max() == 0.25 * selected


@pytest.mark.parametrize("group", [1, 5, 300])
@pytest.mark.parametrize("codec", ["libx264", "libvpx", "libx265", "libvpx-vp9", "libsvtav1"])
def test_the_frames_are_the_same_as_of_decoding_everything(codec: str, group: int) -> None:
    rng = np.random.default_rng(group)
    frames = [
        rng.integers(0, 256, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1) for _ in range(60)
    ]
    data = clip("matroska", codec, frames, group=group)
    every = all_decoded(data)
    picked = pictures_of(data, 7)
    assert len(every) == 60
    for picture, index in zip(picked.frames, [4, 12, 21, 30, 38, 47, 55], strict=True):
        assert_is_frame(picture, index, every)


@pytest.mark.parametrize("group", [3, 7])
@pytest.mark.parametrize(
    ("kind", "codec", "encoder"),
    [
        ("mp4", "libx264", {"bf": "3", "b-pyramid": "normal"}),
        ("mp4", "libx264", {"x264-params": "open-gop=1"}),
        ("mpegts", "libx264", {"x264-params": "tff=1:interlaced=1"}),
        ("matroska", "libx264", {"intra-refresh": "1", "g": "9"}),
        ("matroska", "libx264", {"intra-refresh": "1", "g": "4"}),  # before all is refreshed
        ("mpegts", "libx264", {"intra-refresh": "1", "g": "4", "bf": "0"}),
        ("avi", "libx264", {"bf": "2"}),
        ("mp4", "libx265", {"x265-params": "open-gop=1:log-level=none"}),
        ("webm", "libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "8"}),
        ("mpegts", "mpeg2video", {"bf": "2"}),
    ],
)
def test_any_number_of_frames_equals_full_decoding(
    kind: str, codec: str, encoder: dict[str, str], group: int
) -> None:
    data = clip(kind, codec, [numbered(n) for n in range(28)], group=group, encoder=encoder)
    every = all_decoded(data)
    for count, threads in product(range(1, 16), (1, 3)):
        picked = pictures_of(data, count, Limits(threads=threads))
        for part, picture in enumerate(picked.frames):
            assert_is_frame(picture, int((part + 0.5) / count * len(every)), every)


X264 = st.fixed_dictionaries(
    {"keyint": st.sampled_from([3, 8, 40]), "ref": st.sampled_from([1, 2, 4])},
    optional={
        "b-adapt": st.sampled_from([0, 2]),
        "b-pyramid": st.sampled_from(["none", "strict", "normal"]),
        "bframes": st.sampled_from([0, 1, 3, 6]),
        "direct": st.sampled_from(["none", "spatial", "temporal"]),
        "interlaced": st.just(1),
        "intra-refresh": st.just(1),
        "open-gop": st.just(1),
        "scenecut": st.sampled_from([0, 400]),
        "slices": st.sampled_from([2, 3]),
        "weightp": st.sampled_from([0, 1, 2]),
    },
)


@given(X264, st.sampled_from(["mp4", "matroska", "mpegts", "flv"]), st.integers(1, 9))
@settings(max_examples=60)
def test_frames_equal_full_decoding_with_any_encoder_options(
    options: dict[str, Any], kind: str, count: int
) -> None:
    encoder = {"x264-params": ":".join(f"{name}={value}" for name, value in options.items())}
    data = clip(kind, frames=[numbered(n) for n in range(28)], encoder=encoder)
    every = all_decoded(data)
    for threads in (1, 3):
        pictures = pictures_of(data, count, Limits(threads=threads)).frames
        for part, picture in enumerate(pictures):
            assert_is_frame(picture, int((part + 0.5) / count * len(every)), every)


@pytest.mark.parametrize("group", [5, 28])
def test_frames_are_right_without_a_reordering_delay_in_the_header(group: int) -> None:
    encoder = {"bf": "5", "x264-params": "b-adapt=0:b-pyramid=normal"}
    data = clip(frames=[numbered(n) for n in range(28)], group=group, encoder=encoder)
    every = all_decoded(data)
    for count in range(1, 16):
        picked = pictures_of(without_reordering(data), count)
        for part, picture in enumerate(picked.frames):
            assert_is_frame(picture, int((part + 0.5) / count * len(every)), every)


def test_only_groups_of_pictures_with_a_selected_frame_are_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = clip("matroska", frames=[numbered(n % 28) for n in range(200)], group=10)
    decoded, converted = [], []
    decode, drain, convert = frame_decoder.decode_or_none, frame_decoder.decode, frames.to_rgb

    def counted_decode(stream: Any, packet: Any) -> list[Any] | None:
        decoded.append(packet)
        return decode(stream, packet)

    def counted_drain(stream: Any, packet: None) -> list[Any]:
        decoded.append(packet)
        return drain(stream, packet)

    def counted_convert(frame: Any, *args: Any) -> Bytes:
        converted.append(frame)
        return convert(frame, *args)

    monkeypatch.setattr(frame_decoder, "decode_or_none", counted_decode)
    monkeypatch.setattr(frame_decoder, "decode", counted_drain)
    monkeypatch.setattr(frames, "to_rgb", counted_convert)
    assert numbers_of(data, 2) == [50 % 28, 150 % 28]
    assert len(converted) == 2
    assert 2 <= len(decoded) <= 24  # the last frame of both groups of 10, and an end for each
    decoded.clear()
    assert numbers_of(clip("matroska", group=300), 4) == [1, 3, 6, 8]
    assert len(decoded) <= 11  # each of one group of 10 once


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("codec", ["libvpx", "libx264"])
def test_frames_around_a_damaged_packet_are_decoded(codec: str, threads: int) -> None:
    data = clip("matroska", codec, group=5)
    with av.open(io.BytesIO(data)) as file:
        packets = [bytes(packet) for packet in file.demux(video=0) if packet.size]
    at = data.index(packets[5])  # a key frame: its whole group is lost
    broken = data[:at] + bytes(len(packets[5])) + data[at + len(packets[5]) :]
    pictures = pictures_of(broken, 4, Limits(threads=threads))
    assert [number_of(picture) for picture in pictures.frames[:2]] == [1, 3]


def test_groups_of_pictures_are_decoded_in_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    data = clip("matroska", "libvpx", [numbered(n % 28) for n in range(40)], group=10)
    inside = Barrier(2)
    read = frames._read_part

    def met(*args: Any, **named: Any) -> Any:
        inside.wait(30)  # until the other has begun as well
        return read(*args, **named)

    monkeypatch.setattr(frames, "_read_part", met)
    pictures = pictures_of(data, 4, Limits(threads=2))
    assert [number_of(picture) for picture in pictures.frames] == [5, 15, 25, 35 % 28]


# --- how they are shown --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("matrix", "oriented"),
    [
        ((1, 0, 0, 1), lambda picture: picture),
        ((0, 1, -1, 0), lambda picture: np.rot90(picture, -1)),  # a phone held upright
        ((-1, 0, 0, -1), lambda picture: np.rot90(picture, 2)),
        ((0, -1, 1, 0), lambda picture: np.rot90(picture, 1)),
        ((-1, 0, 0, 1), lambda picture: picture[:, ::-1]),  # a selfie
        ((1, 0, 0, -1), lambda picture: picture[::-1]),
        ((0, 1, 1, 0), lambda picture: picture.transpose(1, 0, 2)),
    ],
)
def test_the_display_matrix_turns_and_mirrors_the_picture(
    matrix: tuple[int, int, int, int], oriented: Callable[[Bytes], Bytes]
) -> None:
    data = turned(clip(frames=[quadrants()] * 3), matrix)
    picture = pictures_of(data, 1).frames[0]
    expected = oriented(quadrants())
    assert picture.shape == expected.shape
    assert picture.flags.c_contiguous
    assert np.abs(picture.astype(int) - expected.astype(int)).mean() < 12


def test_the_rotated_recording_looks_like_the_unrotated_one_turned(shared: Path) -> None:
    straight = pictures_of((shared / "media/nasa_13013.mp4").read_bytes(), 65)
    rotated = pictures_of((shared / "media/nasa_13013_rotated.mp4").read_bytes(), 4)
    assert rotated.frames[0].shape == (480, 270, 3)  # 90 degrees counterclockwise
    small = np.rot90(rotated.frames[0], -1)[1::3, 1::3].astype(int)  # 90 x 160
    errors = {
        turns: min(
            float(np.abs(np.rot90(small, turns) - frame[::2, ::2].astype(int)).mean())
            for frame in straight.frames
        )
        for turns in (0, 2)
    }
    assert errors[0] < 4 < errors[2]


def test_pixels_that_are_not_square_are_made_square() -> None:
    data = clip(frames=[numbered(3)] * 3, aspect=Fraction(2, 1))
    assert pictures_of(data, 1).frames[0].shape == (48, 128, 3)


ANAMORPHIC = [
    ("mpegts", "libx264"),
    ("mpegts", "libx265"),
    ("mpegts", "mpeg2video"),
    ("mpeg", "mpeg2video"),
    ("flv", "libx264"),
    ("avi", "mpeg4"),
]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("kind", "codec"), ANAMORPHIC)
def test_an_aspect_ratio_in_the_frames_alone_is_applied(
    kind: str, codec: str, threads: int
) -> None:
    data = clip(kind, codec, [numbered(3)] * 9, group=3, aspect=Fraction(4, 3))  # 16:9
    for picture in pictures_of(data, 4, Limits(threads=threads)).frames:
        assert picture.shape == (48, 85, 3)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video"])
def test_a_changing_aspect_ratio_is_applied_frame_by_frame(codec: str, threads: int) -> None:
    wide, square = Fraction(4, 3), Fraction(1, 1)
    parts = [
        clip("mpegts", codec, [numbered(n)] * 9, group=3, aspect=aspect)
        for n, aspect in enumerate((wide, square))
    ]
    pictures = pictures_of(b"".join(parts), 18, Limits(threads=threads)).frames
    assert [picture.shape[1] for picture in pictures] == [85] * 9 + [64] * 9


def test_the_containers_aspect_ratio_has_precedence() -> None:
    data = clip("matroska", frames=[numbered(3)] * 3, aspect=Fraction(2, 1))
    assert pictures_of(data, 1).frames[0].shape == (48, 128, 3)


@pytest.mark.parametrize(
    ("orientation", "oriented"),
    [
        (1, lambda picture: picture),
        (3, lambda picture: np.rot90(picture, 2)),
        (6, lambda picture: np.rot90(picture, -1)),
        (8, lambda picture: np.rot90(picture, 1)),
    ],
)
def test_motion_jpeg_is_turned_by_its_exif_orientation(
    orientation: int, oriented: Callable[[Bytes], Bytes]
) -> None:
    data = clip("mov", "mjpeg", [quadrants()] * 3, pixels="yuvj420p")
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0"
    exif += bytes((orientation, 0, 0, 0, 0, 0, 0))
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif
    packets = packets_of(data)
    marked = [with_data(p, bytes(p)[:2] + segment + bytes(p)[2:]) for p in packets]
    picture = pictures_of(packed("mov", marked, like=data), 1).frames[0]
    expected = oriented(quadrants())
    assert picture.shape == expected.shape
    assert np.abs(picture.astype(int) - expected).mean() < 12


@pytest.mark.parametrize("kind", ["mpegts", "matroska", "mp4"])
@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_a_display_matrix_in_the_stream_applies_to_its_group_of_pictures(
    kind: str, codec: str
) -> None:
    """It comes with the key frame alone, and holds for those behind it."""
    encoder = {"h264": {"bf": "0"}, "hevc": {"x265-params": "bframes=0:log-level=none"}}[codec]
    library = {"h264": "libx264", "hevc": "libx265"}[codec]
    data = clip("mpegts", library, [quadrants()] * 6, group=30, encoder=encoder)
    packets = packets_of(data)
    # SEI message 47, of 3 bytes: no mirror, 0x4000 / 65536 of a turn anticlockwise, until revoked.
    flags = {"h264": 0b01001, "hevc": 0b11000}[codec]
    message = bytes((47, 3)) + (0x4000 << 5 | flags).to_bytes(3, "big") + b"\x80"
    sei = b"\0\0\0\1" + {"h264": b"\x06", "hevc": b"\x4e\x01"}[codec] + message
    *before, picture_unit = units(bytes(packets[0]))
    packets[0] = with_data(packets[0], b"".join((*before, sei, picture_unit)))
    for picture in pictures_of(packed(kind, packets, like=data), 3).frames:
        expected = np.rot90(quadrants(), 1)
        assert picture.shape == expected.shape
        assert np.abs(picture.astype(int) - expected).mean() < 12


def test_many_large_pictures_are_shrunk_until_they_fit() -> None:
    limits = Limits(max_total_pixels=4 * 24 * 32)
    pictures = pictures_of(clip(), 4, limits)
    assert [picture.shape for picture in pictures.frames] == [(24, 32, 3)] * 4
    assert [number_of(picture) for picture in pictures.frames] == [1, 3, 6, 8]


# --- sound ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "codec", "sound_codec"), CONTAINERS)
def test_the_sound_of_a_clip_keeps_its_rate_channels_and_waveform(
    kind: str, codec: str, sound_codec: str
) -> None:
    sent = tone(1.0, 48_000, 2)
    decoded = read_clip(clip(kind, codec, sound=sent, sound_codec=sound_codec), 4)
    assert decoded.pictures is not None
    assert len(decoded.pictures.frames) == 4
    sound = decoded.sound
    assert sound is not None
    assert sound.sample_rate == 48_000
    assert sound.samples.dtype == np.float32
    assert sound.samples.shape[0] == 2
    assert sound.samples.shape[1] == pytest.approx(48_000, abs=2048)  # a codec's padding
    for channel, pitch in enumerate((220, 440)):
        middle = sound.samples[channel, 12_000:36_000]
        spectrum = np.abs(np.fft.rfft(middle))
        assert spectrum.argmax() * 2 == pytest.approx(pitch, abs=2)  # 24,000 samples: 2 Hz a bin
        assert float(np.sqrt(2 * np.mean(middle**2))) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100])
def test_lossless_sound_is_decoded_exactly(rate: int) -> None:
    sent = tone(0.5, rate, 1)
    decoded = sound_of(clip("matroska", sound=sent, sound_codec="pcm_s16le", sound_rate=rate))
    assert decoded.sample_rate == rate
    assert decoded.samples.shape == sent.shape
    np.testing.assert_allclose(decoded.samples, sent, atol=1 / 32_000)


@pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s24le", "pcm_s32le", "pcm_f32le", "pcm_f64le"])
def test_every_sample_format_has_the_same_scale(codec: str) -> None:
    sent = tone(0.1, 8000, 2)
    decoded = sound_of(clip("matroska", sound=sent, sound_codec=codec, sound_rate=8000))
    np.testing.assert_allclose(decoded.samples, sent, atol=1 / 120 if codec == "pcm_u8" else 1e-4)


@pytest.mark.parametrize(
    ("kind", "codec", "channels"),
    [
        ("mp4", "aac", 6),
        ("mp4", "aac", 8),
        ("mp4", "aac", 16),
        ("mp4", "pcm_s16le", 16),
        ("matroska", "wavpack", 16),
        ("webm", "libopus", 8),
        ("matroska", "flac", 8),
        ("matroska", "pcm_s16le", 6),
    ],
)
def test_many_channels_keep_their_order(kind: str, codec: str, channels: int) -> None:
    sent = np.repeat(tone(0.5, 48_000), channels, axis=0)
    sent *= np.linspace(0.2, 1, channels, dtype=np.float32)[:, None]
    try:
        data = clip(kind, frames=[], sound=sent, sound_codec=codec)
    except av.error.ArgumentError:
        if (codec, channels) != ("aac", 16):
            raise
        pytest.skip("the FFmpeg that is installed encodes no AAC of 16 channels")
    sound = sound_of(data)
    assert sound.samples.shape[0] == channels
    assert sound.samples.shape[1] == pytest.approx(24_000, abs=2048)
    frame = [channel for channel in range(channels) if (channels, channel) not in _WOOFERS]
    loudness = sound.samples[:, 6000:18_000].std(axis=1)
    np.testing.assert_allclose(loudness[frame], sent[frame].std(axis=1), rtol=0.1)


#: (of so many channels, the one) that a codec keeps for low frequencies only.
_WOOFERS = {(6, 3), (8, 3)}


def test_a_clip_without_sound_or_pictures_reports_it() -> None:
    silent = read_clip(clip(), 2)
    assert silent.sound is None
    assert silent.sound_problem == "there is no sound in it"
    assert silent.pictures_problem is None
    blind = read_clip(clip(frames=[], sound=tone(0.2, 48_000)), 2)
    assert blind.pictures is None
    assert blind.pictures_problem == "there is no picture in it"
    assert blind.sound_problem is None


def test_parts_that_are_not_requested_are_neither_read_nor_reported() -> None:
    data = clip(sound=tone(0.5, 48_000))
    assert read_clip(data, 2, sound=False).sound is None
    assert read_clip(data, 2, pictures=False).pictures is None
    with pytest.raises(Unusable, match="no sound"):
        read_clip(clip(), 2, pictures=False)
    with pytest.raises(Unusable, match="neither"):
        read_clip(data, 2, sound=False, pictures=False)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_sound_with_nan_is_reported_and_the_pictures_returned(value: float) -> None:
    data = clip("matroska", sound=tone(0.5, 48_000), sound_codec="pcm_f64le")
    samples = np.frombuffer(tone(0.5, 48_000)[0].astype("<f8")[100:104].tobytes(), np.uint8)
    at = data.index(samples.tobytes())
    data = data[:at] + np.array([value], "<f8").tobytes() + data[at + 8 :]
    decoded = read_clip(data, 2)
    assert decoded.sound is None
    assert "NaN" in (decoded.sound_problem or "")
    assert decoded.pictures is not None


def test_cover_art_is_not_a_picture_of_a_clip() -> None:
    cover = b"\x00image/png\x00\x03\x00" + bytes(cv2.imencode(".png", quadrants())[1])
    frame = b"APIC" + len(cover).to_bytes(4, "big") + b"\x00\x00" + cover
    size = len(frame)
    tag = b"ID3\x03\x00\x00" + bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0))
    data = tag + frame + sound_file(tone(1.0, 44_100), 44_100, "MP3")
    decoded = read_clip(data, 2)
    assert decoded.pictures is None
    assert decoded.pictures_problem == "its only picture is cover art"
    assert decoded.sound is not None
    assert decoded.sound.duration_s == pytest.approx(1.0, abs=0.1)


# --- limits --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mp4", "matroska", "avi"])
def test_a_clip_that_lasts_too_long_is_refused(kind: str) -> None:
    limits = Limits(max_duration_s=0.5)
    with pytest.raises(TooLarge, match=r"pictures last longer than 0\.5 s"):
        read_clip(clip(kind), 2, limits=limits)
    data = clip(kind, frames=[numbered(0)], sound=tone(1.0, 48_000), sound_codec="mp2")
    with pytest.raises(TooLarge, match=r"sound is longer than 0\.5 s"):
        read_clip(data, 2, limits=limits)
    assert len(pictures_of(clip(kind), 2, Limits(max_duration_s=1.0)).frames) == 2


def test_pictures_with_too_many_pixels_are_refused() -> None:
    with pytest.raises(TooLarge, match="64 x 48 pixels; at most 3000"):
        read_clip(clip(), 2, limits=Limits(max_pixels=3000))


def test_a_stream_larger_than_its_header_says_is_not_decoded() -> None:
    data = clip("matroska", "libvpx", frames=[np.zeros((480, 640, 3), np.uint8)] * 2)
    lying = data.replace(b"\xb0\x82\x02\x80\xba\x82\x01\xe0", b"\xb0\x82\x00\x40\xba\x82\x00\x30")
    assert lying != data
    with pytest.raises(MediaError):
        read_clip(lying, 2, limits=Limits(max_pixels=100_000))


def test_more_frames_than_the_limit_are_refused_before_anything_is_read() -> None:
    with pytest.raises(TooLarge, match="300 pictures; at most 256"):
        read_clip(b"no matter what", 300)
    with pytest.raises(Unusable, match="at least one"):
        read_clip(b"no matter what", 0)


@pytest.mark.parametrize(
    "text",
    [
        b"these are words, whatever the file is called.\n" * 20,
        b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nfile:///etc/hostname\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile '/etc/hostname'\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
        b"<?xml version='1.0'?><MPD><BaseURL>/etc/hostname</BaseURL></MPD>",
        b"%PDF-1.7\n" + bytes(200),
        b"PK\x03\x04" + bytes(200),
        b"\x7fELF" + bytes(200),
    ],
)
def test_an_unknown_format_is_refused_and_opens_no_other_file(text: bytes) -> None:
    with pytest.raises(UnknownFormat, match="mp4, mov, webm"):
        read_clip(text, 2)


@contextmanager
def _no_file_can_be_written() -> Iterator[None]:
    """No file of this process may grow: its size limit is 0."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


def test_nothing_is_written_to_a_file(tmp_path: Path) -> None:
    data = clip(sound=tone(0.5, 48_000))
    with _no_file_can_be_written():
        with pytest.raises(OSError, match="File too large"):
            (tmp_path / "a").write_bytes(b"the wall stands")
        decoded = read_clip(data, 4)
    assert decoded.pictures is not None
    assert decoded.sound is not None


# --- damage --------------------------------------------------------------------------------


def test_a_truncated_mp4_without_index_is_reported() -> None:
    data = clip()
    with pytest.raises(Unusable, match="truncated"):
        read_clip(data[: len(data) // 2], 2)


@pytest.mark.parametrize(
    ("kind", "codec", "muxer"),
    [
        ("webm", "libvpx", {"live": "1"}),
        ("matroska", "libx264", {}),
        ("mp4", "libx264", {"movflags": "frag_every_frame+empty_moov"}),
        ("flv", "flv", {}),
        ("mpegts", "libx264", {}),
    ],
)
def test_a_truncated_clip_is_read_up_to_its_end(
    kind: str, codec: str, muxer: dict[str, str]
) -> None:
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(10)]
    data = clip(kind, codec, frames, muxer=muxer)
    pictures = pictures_of(data[: 2 * len(data) // 3], 5)
    assert len(pictures.frames) == 5
    assert 0.2 < pictures.times_s[-1] < 0.8


def test_a_browsers_recording_needs_neither_duration_nor_index() -> None:
    data = clip("webm", "libvpx", sound=tone(1, 48_000), sound_codec="libopus", muxer={"live": "1"})
    with av.open(io.BytesIO(data)) as file:
        assert file.duration is None
    assert numbers_of(data, 4) == [1, 3, 6, 8]
    assert sound_of(data).duration_s == pytest.approx(1.0, abs=0.03)


@cache
def _whole() -> tuple[bytes, ...]:
    return (
        clip("mp4", sound=tone(0.3, 48_000)),
        clip("webm", "libvpx", sound=tone(0.3, 48_000), sound_codec="libopus"),
        clip("avi", "mpeg4", sound=tone(0.3, 48_000), sound_codec="pcm_s16le"),
        clip("flv", "flv"),
        clip("mpegts", sound=tone(0.3, 48_000)),
        clip("gif", "gif"),
    )


@given(data=st.data())
@settings(max_examples=200)
def test_a_damaged_clip_is_decoded_or_raises_a_media_error(data: st.DataObject) -> None:
    broken = damaged(data, _whole(), flips=8)
    try:
        decoded = read_clip(broken, 3)
    except MediaError:
        return
    assert decoded.sound is None or np.isfinite(decoded.sound.samples).all()
    assert decoded.pictures is None or len(decoded.pictures.frames) == 3
