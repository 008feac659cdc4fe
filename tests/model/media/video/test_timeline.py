"""When frames are shown: held frames, concatenated recordings, jumps of time stamps."""

from __future__ import annotations

import struct
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.media.reader import Limits, Pictures, TooLarge, read_clip
from tests.model.media_files import (
    SIZE,
    clip,
    number_of,
    numbered,
    packed,
    packets_of,
    tone,
)

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.slow]

DEFAULTS = Limits()
_DURATION = b"\x44\x89\x88"  # the element that says how long a Matroska file is, in ms


def pictures_of(data: bytes, frames: int, limits: Limits = DEFAULTS) -> Pictures:
    pictures = read_clip(data, frames, sound=False, limits=limits).pictures
    assert pictures is not None
    return pictures


def numbers_of(data: bytes, frames: int, limits: Limits = DEFAULTS) -> list[int]:
    return [number_of(picture) for picture in pictures_of(data, frames, limits).frames]


def centres(numbers: list[int], count: int) -> list[int]:
    """Of frames that are each shown as long, those at the centres of equal parts."""
    return [numbers[(2 * part + 1) * len(numbers) // (2 * count)] for part in range(count)]


def with_duration(matroska: bytes, milliseconds: float) -> bytes:
    """The file with another duration in its header."""
    at = matroska.index(_DURATION) + len(_DURATION)
    return matroska[:at] + struct.pack(">d", milliseconds) + matroska[at + 8 :]


# --- key frames in place of others ---------------------------------------------------------


@pytest.mark.parametrize(
    ("shift", "expected"),
    [(0.0, [3, 9, 15, 21]), (0.2, [3, 9, 14, 21]), (0.4, [3, 7, 14, 21]), (0.5, [0, 7, 14, 21])],
)
def test_a_key_frame_near_the_centre_of_a_part_is_taken(shift: float, expected: list[int]) -> None:
    """24 frames in parts of 6, with key frames 0, 7, 14 and 21."""
    data = clip(frames=[numbered(n) for n in range(24)], group=7, encoder={"sc_threshold": "0"})
    pictures = pictures_of(data, 4, Limits(max_frame_shift=shift))
    assert [number_of(picture) for picture in pictures.frames] == expected
    assert pictures.times_s == pytest.approx([number / 10 for number in expected])


def test_no_key_frame_is_taken_that_another_part_shows() -> None:
    """Frames at 0, 1 and 2.4 s, the last a key frame that is held to 8 s."""
    frames, times_ms = [numbered(3), numbered(4), numbered(20)], [0, 1000, 2400]
    sound = tone(8, 48_000)
    data = clip("webm", "libvpx", frames, times_ms, group=2, sound=sound, sound_codec="libopus")
    assert numbers_of(data, 2) == [4, 20]
    assert numbers_of(data, 2, Limits(max_frame_shift=0.5)) == [3, 20]  # 20 is nearer


@given(
    st.sampled_from(["libx264", "libvpx", "libx265"]),
    st.integers(2, 28),
    st.integers(2, 9),
    st.floats(0, 0.5),
)
@settings(max_examples=40)
def test_frames_are_key_frames_within_the_shift_or_those_at_the_centres(
    codec: str, group: int, count: int, shift: float
) -> None:
    options = {"libx264": {"sc_threshold": "0"}, "libx265": {"x265-params": "log-level=none"}}
    frames = [numbered(n) for n in range(28)]
    data = clip("matroska", codec, frames, group=group, encoder=options.get(codec))
    keys = {round(float(packet.pts * packet.time_base) * 10) for packet in packets_of(data)
            if packet.is_keyframe}  # fmt: skip
    part = 2.8 / count
    exact = pictures_of(data, count)
    shifted = pictures_of(data, count, Limits(max_frame_shift=shift))
    for number, (picture, time, before) in enumerate(
        zip(shifted.frames, shifted.times_s, exact.times_s, strict=True)
    ):
        assert number_of(picture) == round(10 * time)
        near = [key for key in keys if abs(key / 10 - (number + 0.5) * part) < shift * part - 0.01]
        if time == before:
            assert not near or round(10 * time) in keys
        else:
            assert round(10 * time) in keys
            assert abs(time - (number + 0.5) * part) <= shift * part + 0.01
    assert list(shifted.times_s) == sorted(shifted.times_s)


# --- the last frame ------------------------------------------------------------------------


@pytest.mark.parametrize("reads_sound", [True, False])
@pytest.mark.parametrize(
    ("kind", "codec", "sound_codec", "muxer"),
    [
        ("webm", "libvpx", "libopus", {"live": "1"}),
        ("webm", "libvpx-vp9", "libopus", {}),
        ("matroska", "libx264", "flac", {}),
        ("mp4", "libx264", "aac", {}),
        ("mp4", "libx264", "aac", {"movflags": "frag_keyframe+empty_moov"}),
        ("mpegts", "libx264", "aac", {}),
        ("flv", "libx264", "aac", {}),
    ],
)
def test_the_last_frame_is_shown_until_the_sound_ends(
    kind: str, codec: str, sound_codec: str, muxer: dict[str, str], reads_sound: bool
) -> None:
    frames, times = [numbered(3), numbered(20)], [0, 100]
    sound = tone(2, 48_000)
    data = clip(kind, codec, frames, times, sound=sound, sound_codec=sound_codec, muxer=muxer)
    pictures = read_clip(data, 4, sound=reads_sound).pictures
    assert pictures is not None
    assert [number_of(picture) for picture in pictures.frames] == [20] * 4
    assert pictures.times_s == pytest.approx([0.1] * 4, abs=0.03)  # AAC begins early


def test_the_last_frame_is_shown_until_the_header_says_that_the_clip_ends() -> None:
    data = clip("matroska", "libvpx", [numbered(3), numbered(20)], [0, 100])
    assert numbers_of(data, 4) == [3, 3, 20, 20]
    assert numbers_of(with_duration(data, 2000), 4) == [20] * 4
    assert numbers_of(with_duration(data, 1), 4) == [3, 3, 20, 20]


@pytest.mark.parametrize("hours", [0.02, 47, 1e12, float("inf"), float("nan")])
def test_a_header_duration_beyond_the_limit_is_ignored(hours: float) -> None:
    data = with_duration(clip("matroska", "libvpx"), hours * 3_600_000)
    assert numbers_of(data, 4) == [1, 3, 6, 8]


@pytest.mark.parametrize(
    ("kind", "codec", "muxer"),
    [
        ("matroska", "libvpx", {}),
        ("matroska", "libx264", {}),
        ("flv", "flv", {}),
        ("mp4", "libx264", {"movflags": "frag_every_frame+empty_moov"}),
    ],
)
def test_the_header_duration_of_a_truncated_file_is_ignored(
    kind: str, codec: str, muxer: dict[str, str]
) -> None:
    rng = np.random.default_rng(0)
    data = clip(kind, codec, [rng.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(20)],
                muxer=muxer)  # fmt: skip
    times = pictures_of(data[: len(data) // 2], 20).times_s
    assert times[-1] < 1.2
    assert times.count(times[-1]) <= 20 / len(set(times)) + 1  # as long as the others


def test_the_padding_of_the_sound_does_not_extend_the_last_frame() -> None:
    silent = clip("mp4", frames=[numbered(n) for n in range(28)])
    padded = clip("mp4", frames=[numbered(n) for n in range(28)], sound=tone(2.85, 48_000))
    for count in range(1, 29):
        assert numbers_of(padded, count) == numbers_of(silent, count)


def test_a_held_frame_equals_repeated_frames(shared: Path) -> None:
    short = (shared / "cases/held_last_frame.webm").read_bytes()
    long = (shared / "cases/held_last_frame_as_30_frames.webm").read_bytes()
    for one, other in zip(pictures_of(short, 4).frames, pictures_of(long, 4).frames, strict=True):
        assert np.abs(one.astype(int) - other).mean() < 2


# --- frames that stand in the middle -------------------------------------------------------


@pytest.mark.parametrize(("kind", "codec"), [("matroska", "libvpx"), ("mpegts", "libx264")])
def test_a_frame_is_held_through_a_pause_that_sound_covers(kind: str, codec: str) -> None:
    frames, times = [numbered(n) for n in (2, 9, 16, 23)], [0, 100, 8000, 8100]
    still = clip(kind, codec, frames, times)
    assert numbers_of(still, 4) == [2, 9, 16, 23]  # a jump of 7.9 s without sound is closed
    spoken = clip(kind, codec, frames, times, sound=tone(8.2, 48_000), sound_codec="aac")
    assert numbers_of(spoken, 4) == [9, 9, 9, 9]
    assert numbers_of(spoken, 41)[-1] == 23


def test_a_frame_is_held_for_its_packets_duration_without_sound() -> None:
    frames, times = [numbered(n) for n in (2, 9, 16, 23)], [0, 100, 8000, 8100]
    data = clip("mp4", frames=frames, times_ms=times, encoder={"bf": "0"})
    assert numbers_of(data, 4) == [9, 9, 9, 9]


def test_held_frames_count_towards_the_duration() -> None:
    frames, times = [numbered(n) for n in (2, 9)], [0, 7000]
    data = clip("matroska", "libvpx", frames, times, sound=tone(7, 48_000), sound_codec="libopus")
    with pytest.raises(TooLarge, match="longer than 6 s, by their time stamps"):
        pictures_of(data, 2, Limits(max_duration_s=6))
    assert len(pictures_of(data, 2, Limits(max_duration_s=8)).frames) == 2


# --- recordings that were joined -----------------------------------------------------------

#: Containers of which two, one behind the other, are one file; and codecs, with B-frames or not.
JOINABLE = [
    ("mpegts", "libx264", {"bf": "3"}),
    ("mpegts", "libx264", {"bf": "0"}),
    ("mpegts", "libx265", {"x265-params": "log-level=none"}),
    ("mpegts", "mpeg2video", {"bf": "2"}),
    ("mpeg", "mpeg2video", {}),
    ("webm", "libvpx", {}),
    ("webm", "libvpx-vp9", {}),
    ("matroska", "libx264", {"bf": "3"}),
    ("matroska", "mpeg4", {}),
]


@given(
    joinable=st.sampled_from(JOINABLE),
    lengths=st.lists(st.integers(2, 9), min_size=2, max_size=3),
    late_ms=st.sampled_from([0, 0, 500, 90_000]),
    group=st.sampled_from([3, 12]),
    count=st.integers(1, 12),
    threads=st.sampled_from([1, 3]),
)
@settings(max_examples=50)
def test_concatenated_recordings_follow_each_other(
    joinable: tuple[str, str, dict[str, str]],
    lengths: list[int],
    late_ms: int,
    group: int,
    count: int,
    threads: int,
) -> None:
    kind, codec, encoder = joinable
    numbers = list(range(sum(lengths)))
    data, begin = b"", 0
    for number, length in enumerate(lengths):
        frames = [numbered(n) for n in numbers[begin : begin + length]]
        late = late_ms if number == 0 and codec != "mpeg2video" else 0
        times = range(late, late + 100 * length, 100)
        # Of Matroska files that say how long they are FFmpeg reads no third.
        muxer = {"live": "1"} if kind in ("webm", "matroska") and len(lengths) > 2 else {}
        data += clip(kind, codec, frames, times, group=group, encoder=encoder, muxer=muxer)
        begin += length
    assert numbers_of(data, count, Limits(threads=threads)) == centres(numbers, count)


@pytest.mark.parametrize("lengths", [(10, 10), (12, 5), (5, 12)])
def test_concatenated_fragmented_mp4s_follow_each_other(lengths: tuple[int, int]) -> None:
    numbers = list(range(sum(lengths)))
    parts = numbers[: lengths[0]], numbers[lengths[0] :]
    muxer = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    data = b"".join(
        clip(frames=[numbered(n) for n in part], group=4, muxer=muxer) for part in parts
    )
    for count, threads in product((1, 2, 3, 7), (1, 3)):
        assert numbers_of(data, count, Limits(threads=threads)) == centres(numbers, count)


def test_a_second_recording_may_begin_before_its_first_key_frame() -> None:
    frames = [numbered(n) for n in range(28)]
    whole = clip("mpegts", frames=frames, group=7, encoder={"bf": "0"})
    cut = packed("mpegts", packets_of(whole)[3:], like=whole)
    numbers = numbers_of(whole + cut, 53)
    assert numbers[:28] == list(range(28))
    assert numbers[33:] == list(range(8, 28))  # of the second's first four nothing can be made


def test_the_sound_of_concatenated_recordings_extends_the_last_frame() -> None:
    first = clip("mpegts", frames=[numbered(n) for n in range(10)], sound=tone(1, 48_000))
    second = clip("mpegts", frames=[numbered(20)] * 2, sound=tone(1, 48_000))
    assert numbers_of(first + second, 4) == [2, 7, 20, 20]


def test_the_duration_of_concatenated_recordings_is_their_sum() -> None:
    data = clip("mpegts") + clip("mpegts")
    with pytest.raises(TooLarge, match=r"longer than 1\.5 s"):
        pictures_of(data, 2, Limits(max_duration_s=1.5))
    assert len(pictures_of(data, 2, Limits(max_duration_s=2)).frames) == 2


def test_a_recording_with_restarting_stamps_equals_the_retimed_one(shared: Path) -> None:
    restarted = (shared / "cases/restart.ts").read_bytes()
    retimed = (shared / "cases/restart_retimed.mp4").read_bytes()
    for count in (1, 2, 4, 7, 12):
        one, other = pictures_of(restarted, count), pictures_of(retimed, count)
        assert one.times_s == pytest.approx(other.times_s, abs=2e-3)
        for picture, expected in zip(one.frames, other.frames, strict=True):
            assert np.abs(picture.astype(int) - expected).mean() < 2


# --- stamps that jump ----------------------------------------------------------------------


@given(
    kind=st.sampled_from(["mpegts", "matroska", "flv", "mp4"]),
    bframes=st.sampled_from(["0", "3"]),
    length=st.integers(4, 28),
    jump=st.data(),
    count=st.integers(1, 12),
    threads=st.sampled_from([1, 3]),
)
@settings(max_examples=50)
def test_a_jump_of_the_time_stamps_is_closed(
    kind: str, bframes: str, length: int, jump: st.DataObject, count: int, threads: int
) -> None:
    at = jump.draw(st.integers(1, length - 1))
    # What stands for longer than a clip may be is no frame that is held, even in an mp4.
    jump_ms = jump.draw(st.integers(61_000 if kind == "mp4" else 5_200, 2_000_000))
    times = [100 * n + (jump_ms if n >= at else 0) for n in range(length)]
    frames = [numbered(n) for n in range(length)]
    encoder = {"bf": "0" if kind == "flv" else bframes}  # its muxer has no room for such delays
    data = clip(kind, frames=frames, times_ms=times, group=7, encoder=encoder)
    pictures = pictures_of(data, count, Limits(threads=threads))
    numbers = [number_of(picture) for picture in pictures.frames]
    expected = centres(list(range(length)), count)
    assert numbers == expected
    assert pictures.times_s == pytest.approx([n / 10 for n in expected], abs=0.01)


def test_a_jump_is_closed_if_the_sound_jumps_as_well() -> None:
    first = clip("mpegts", sound=tone(1, 48_000))
    late = clip(
        "mpegts", frames=[numbered(n) for n in range(10, 20)], times_ms=range(90_000, 91_000, 100)
    )
    assert numbers_of(first + late, 5) == [2, 6, 10, 14, 18]


def test_reordered_frames_are_not_a_step_back() -> None:
    """Not even where a frame is a second, and no packet says when it is decoded."""
    frames, times = [numbered(n) for n in range(28)], range(0, 28_000, 1000)
    encoder = {"bf": "5", "x264-params": "b-adapt=0:b-pyramid=normal"}
    for kind in ("matroska", "mpegts", "mp4", "flv"):
        data = clip(kind, frames=frames, times_ms=times, group=28, encoder=encoder)
        assert numbers_of(data, 28) == list(range(28)), kind


def test_long_slides_are_all_shown() -> None:
    frames = [numbered(n) for n in range(5)]
    data = clip("matroska", "libvpx", frames, range(0, 50_000, 10_000))
    assert numbers_of(data, 5) == [0, 1, 2, 3, 4]
