"""Palettes, extradata and parameter sets of skipped packets: frames equal decoding in order."""

from __future__ import annotations

import io
from fractions import Fraction
from itertools import product
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.packet import Packet, PacketSideData, packet_sidedata_type_from_literal
from hypothesis import given, settings
from hypothesis import strategies as st

from model.media.reader import Limits, Pictures, Unusable, read_clip
from tests.model.media_files import (
    SIZE,
    Bytes,
    clip,
    film,
    packed,
    packets_of,
    units,
    with_data,
)

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.slow]

#: Screen recorders' and old codecs, whose frames change the one before, and pixel formats.
SCREENS = [
    ("avi", "rawvideo", "pal8"),
    ("mov", "rawvideo", "pal8"),
    ("avi", "png", "pal8"),
    ("mov", "smc", "pal8"),
    ("avi", "msrle", "pal8"),
    ("avi", "zmbv", "pal8"),
    ("avi", "zmbv", "bgr0"),
    ("mov", "qtrle", "gray"),
    ("mov", "qtrle", "rgb24"),
    ("avi", "msvideo1", "rgb555le"),
    ("avi", "cinepak", "rgb24"),
    ("mov", "rpza", "rgb555le"),
    ("flv", "flashsv", "bgr24"),
    ("flv", "flashsv2", "bgr24"),
    ("avi", "ffv1", "yuv420p"),
    ("mov", "svq1", "yuv410p"),
    ("mov", "gif", "pal8"),
    ("apng", "apng", "rgb24"),
]
#: Codecs that tell of a frame whether it is made from others.
PREDICTED = ["mpeg4", "mpeg2video", "msmpeg4", "wmv1", "wmv2", "libvpx", "libvpx-vp9", "libx264"]


def pictures_of(data: bytes, frames: int, threads: int = 1) -> Pictures:
    limits = Limits(threads=threads, max_demux_cpu_s=60)  # a busy machine counts waits as CPU time
    pictures = read_clip(data, frames, sound=False, limits=limits).pictures
    assert pictures is not None
    return pictures


def in_order(data: bytes) -> list[Bytes]:
    """Every frame of a clip, decoded in order by one thread."""
    with av.open(io.BytesIO(data)) as file:
        file.streams.video[0].codec_context.thread_count = 1
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def assert_as_in_order(data: bytes, count: int, threads: int = 1) -> None:
    every = in_order(data)
    for part, picture in enumerate(pictures_of(data, count, threads).frames):
        expected = every[int((part + 0.5) / count * len(every))]
        assert picture.shape == expected.shape
        assert np.abs(picture.astype(int) - expected.astype(int)).mean() < 1


def _screen(pixels: str, picture: Bytes, palette: Bytes) -> av.VideoFrame:
    """Colours by their numbers, below 8: in a palette, or in another pixel format."""
    frame = av.VideoFrame.from_ndarray((picture, palette), format="pal8")
    return frame if pixels == "pal8" else frame.reformat(format=pixels)


@st.composite
def screens(draw: st.DrawFn, pixels: str, may_change: bool) -> list[av.VideoFrame]:
    """Frames that differ from the one before in one block, and maybe in their palette."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    count = draw(st.integers(1, 24))
    picture = rng.integers(0, 8, (6, 8), np.uint8).repeat(8, 0).repeat(8, 1)
    palettes = rng.integers(0, 256, (2, 256, 4), np.uint8) | np.uint8((255, 0, 0, 0))
    change = draw(st.integers(1, 24)) if may_change else count
    frames = []
    for number in range(count):
        picture = picture.copy()
        at = rng.integers(0, 40)
        picture[at : at + 8, at : at + 16] = rng.integers(0, 8)
        frames.append(_screen(pixels, picture, palettes[int(number >= change)]))
    return frames


@given(data=st.data(), count=st.integers(1, 9), threads=st.sampled_from([1, 3]))
@settings(max_examples=60)
def test_screen_recordings_equal_decoding_in_order(
    data: st.DataObject, count: int, threads: int
) -> None:
    kind, codec, pixels = data.draw(st.sampled_from(SCREENS))
    # AVI's muxer alone writes a palette that changes.
    frames = data.draw(screens(pixels, may_change=(kind, codec) == ("avi", "rawvideo")))
    recording = film(kind, codec, frames, group=data.draw(st.sampled_from([1, 4, 30])))
    assert_as_in_order(recording, count, threads)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_palette_change_applies_to_the_following_frames(threads: int) -> None:
    palettes = np.zeros((2, 256, 4), np.uint8)
    palettes[:, 1] = (255, 200, 40, 30), (255, 30, 40, 200)
    picture = np.ones(SIZE, np.uint8)
    frames = [_screen("pal8", picture, palettes[int(number >= 5)]) for number in range(10)]
    data = film("avi", "rawvideo", frames)
    assert sum(packet.has_sidedata("palette") for packet in packets_of(data)) == 2
    for count in range(1, 11):
        assert_as_in_order(data, count, threads)


def _new_extradata(packet: Packet, extradata: bytes) -> None:
    number = packet_sidedata_type_from_literal("new_extradata")
    side = PacketSideData(number, len(extradata))  # type: ignore[call-arg]
    side.update(extradata)
    packet.set_sidedata(side)


def _recording(number: int, **x264: Any) -> bytes:
    """28 frames that are a different half of all for each of two recordings, in an mp4."""
    rng = np.random.default_rng(number)
    frames = [rng.integers(0, 256, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1) for _ in range(8)]
    options = {"x264-params": ":".join(f"{name}={value}" for name, value in x264.items())}
    return clip("mp4", frames=[frames[n % 8] for n in range(28)], group=6, encoder=options)


X264 = st.fixed_dictionaries(
    {
        "cabac": st.sampled_from([0, 1]),
        "8x8dct": st.sampled_from([0, 1]),
        "ref": st.sampled_from([1, 3]),
        "interlaced": st.sampled_from([0, 1]),
    }
)


def _behind(packets: list[Packet], later: list[Packet]) -> int:
    """How much later the others are to be shown in order to follow a frame of 0.1 s."""
    frame = round(Fraction(1, 10) / Fraction(packets[0].time_base))
    ends = [(packet.pts or 0) + frame for packet in packets]
    return max(ends) - min(packet.pts or 0 for packet in later)


def _joined(first: bytes, second: bytes) -> list[Packet]:
    """The packets of two mp4s, those of the second with its extradata and behind the first's."""
    packets, later = packets_of(first), packets_of(second)
    shift = _behind(packets, later)
    with av.open(io.BytesIO(second)) as file:
        extradata = file.streams.video[0].codec_context.extradata
    moved = [with_data(packet, bytes(packet), shift=shift) for packet in later]
    assert extradata is not None
    _new_extradata(moved[0], extradata)
    return packets + moved


@given(X264, X264, st.sampled_from([0, 2]), st.integers(1, 9), st.sampled_from([1, 3]))
@settings(max_examples=25)
def test_new_extradata_applies_to_the_following_frames(
    one: dict[str, int], other: dict[str, int], bframes: int, count: int, threads: int
) -> None:
    first, second = _recording(1, bframes=bframes, **one), _recording(2, bframes=bframes, **other)
    data = packed("flv", _joined(first, second), like=first)
    changed = sum(packet.has_sidedata("new_extradata") for packet in packets_of(data))
    assert changed == (one != other)
    assert_as_in_order(data, count, threads)


def test_two_sample_descriptions_of_an_mp4_are_both_used(shared: Path) -> None:
    data = (shared / "cases/two_avcC.mp4").read_bytes()
    every = in_order(data)
    for count, threads in product((1, 2, 3, 4, 7, 12), (1, 3)):
        pictures = pictures_of(data, count, threads)
        for part, picture in enumerate(pictures.frames):
            expected = every[int((part + 0.5) / count * len(every))]
            assert picture.shape == expected.shape
            assert np.abs(picture.astype(int) - expected.astype(int)).mean() < 1


#: Encoders whose parameter sets differ, so that neither's frames can be decoded by the other's.
_ENTROPIES = [{"bf": "0", "x264-params": f"cabac={cabac}"} for cabac in (0, 1)]
_BLOCKS = [{"x265-params": f"log-level=none:ctu={size}"} for size in (16, 32)]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("kind", "codec", "encoders", "sets"),
    [
        *((kind, "libx264", _ENTROPIES, (7, 8)) for kind in ("avi", "mp4", "matroska")),
        *((kind, "libx265", _BLOCKS, (32, 33, 34)) for kind in ("mp4", "matroska")),
    ],
)
def test_parameter_sets_that_occur_once_apply_to_the_following_frames(
    kind: str, codec: str, encoders: list[dict[str, str]], sets: tuple[int, ...], threads: int
) -> None:
    rng = np.random.default_rng(0)
    frames = [
        rng.integers(0, 256, (6, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1) for _ in range(28)
    ]
    recordings = [clip("mpegts", codec, frames, group=7, encoder=options) for options in encoders]
    packets: list[Packet] = []
    for recording in recordings:
        shift = (
            (packets[-1].dts or 0) + 9000 - (packets_of(recording)[0].dts or 0) if packets else 0
        )
        for number, packet in enumerate(packets_of(recording)):
            kinds = {unit: _kind(unit, codec) for unit in units(bytes(packet))}
            remaining = [unit for unit, kind in kinds.items() if not number or kind not in sets]
            packets.append(with_data(packet, b"".join(remaining), shift=shift))
    data = packed(kind, packets, like=recordings[0])
    assert len(in_order(data)) == 56
    for count in (1, 2, 5, 8, 13):
        assert_as_in_order(data, count, threads)


def _kind(unit: bytes, codec: str) -> int:
    return unit[4] & 0x1F if codec == "libx264" else unit[4] >> 1 & 0x3F


def _predicted(codec: str, group: int) -> tuple[list[Bytes], bytes]:
    """28 frames that are mostly made from the ones before, and their clip in an AVI."""
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (6, 24, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    frames = [np.ascontiguousarray(texture[:, 4 * n : 4 * n + 64]) for n in range(28)]
    unchanged = {"sc_threshold": "1000000000"}  # no key frame of the encoder's own choice
    encoder = {
        "libx264": {"sc_threshold": "0", "bf": "0"},
        "libx265": {"x265-params": "bframes=0:log-level=none"},
        "libvpx": {},
        "libvpx-vp9": {},
    }
    options = encoder.get(codec, unchanged)
    return frames, clip("avi", codec, frames, group=group, encoder=options)


def _nearest(picture: Bytes, frames: list[Bytes]) -> int:
    errors = [np.abs(picture.astype(int) - frame).mean() for frame in frames]
    assert min(errors) < 20
    return int(np.argmin(errors))


@pytest.mark.parametrize(
    ("kind", "codec"),
    [
        ("avi", "msmpeg4"),
        ("avi", "wmv1"),
        ("avi", "wmv2"),
        ("mp4", "mpeg4"),
        ("mp4", "mpeg2video"),
    ],
)
def test_false_key_frame_flags_are_detected(kind: str, codec: str) -> None:
    frames, avi = _predicted(codec, group=9)
    packets = packets_of(avi)
    for packet in packets:
        packet.is_keyframe = True
    lying = packed(kind, packets, like=avi).replace(b"stss", b"free")  # without it, all are
    assert all(packet.is_keyframe for packet in packets_of(lying))
    for count, threads in product((1, 2, 3, 7), (1, 3)):
        pictures = pictures_of(lying, count, threads)
        numbers = [_nearest(picture, frames) for picture in pictures.frames]
        assert numbers == [int((part + 0.5) / count * 28) for part in range(count)]


@pytest.mark.parametrize("codec", PREDICTED)
def test_a_recording_that_begins_before_a_key_frame_starts_at_it(codec: str) -> None:
    frames, data = _predicted(codec, group=9)
    cut = packed("avi", packets_of(data)[3:], like=data)
    numbers = [_nearest(picture, frames) for picture in pictures_of(cut, 12).frames]
    assert min(numbers) >= 6
    assert max(numbers) > 20


@pytest.mark.parametrize("codec", PREDICTED)
def test_a_recording_without_any_key_frame_is_damaged(codec: str) -> None:
    _, data = _predicted(codec, group=300)
    cut = packed("avi", packets_of(data)[1:], like=data)
    with pytest.raises(Unusable, match=r"picture \(.*\) is damaged or empty"):
        pictures_of(cut, 4)


@given(
    st.sampled_from(["libx264", "mpeg4", "mpeg2video"]), st.integers(0, 27), st.integers(0, 9999)
)
@settings(max_examples=40)
def test_frames_that_the_decoder_flags_as_damaged_are_discarded(
    codec: str, broken: int, seed: int
) -> None:
    rng = np.random.default_rng(5)
    frames = [rng.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(28)]
    data = clip("matroska", codec, frames, group=7)
    packets = packets_of(data)
    noise = bytearray(bytes(packets[broken]))
    middle = len(noise) // 2
    noise[middle:] = np.random.default_rng(seed).bytes(len(noise) - middle)
    packets[broken] = with_data(packets[broken], bytes(noise))
    damaged = packed("matroska", packets, like=data)
    with av.open(io.BytesIO(damaged)) as file:
        file.streams.video[0].codec_context.thread_count = 1
        decoded = [
            (frame.is_corrupt, frame.to_ndarray(format="rgb24")) for frame in file.decode(video=0)
        ]
    whole = {picture.tobytes() for is_flagged, picture in decoded if not is_flagged}
    # What the decoder made up may be a copy of the frame before.
    flagged = {picture.tobytes() for is_flagged, picture in decoded if is_flagged} - whole
    assert not flagged & {picture.tobytes() for picture in pictures_of(damaged, 12).frames}
