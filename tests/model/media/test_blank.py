"""Detection of silent sounds and blank pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.media.blank import BLANK_RANGE, SILENCE_RANGE, blank_reason, silence_reason
from model.media.reader import MediaError, Pictures, Sound, read_clip, read_sound
from tests.model.media_files import Bytes, Floats, clip, quadrants, sound_file, tone

RATE = 16_000
STEP = 2.0**-15  # of 16 bits


def is_silent(samples: Floats) -> bool:
    return silence_reason(Sound(samples.astype(np.float32), RATE)) is not None


def is_blank(*frames: Bytes) -> bool:
    return blank_reason(Pictures(frames, tuple(map(float, range(len(frames)))))) is not None


@pytest.mark.parametrize("level", [0.0, -1 / 128, 8 * STEP, 0.3])
@pytest.mark.parametrize("length", [1, 1000])
def test_a_constant_is_silent_at_any_level(level: float, length: int) -> None:
    assert is_silent(np.full((2, length), level, np.float32))


def test_dither_of_16_bits_is_silent() -> None:
    rng = np.random.default_rng(0)
    assert is_silent(STEP * (rng.integers(0, 2, (2, 9000)) - rng.integers(0, 2, (2, 9000))))


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("mp4", "aac"), ("webm", "libopus"), ("mp3", "libmp3lame"), ("ac3", "ac3"),
        ("mpegts", "mp2"), ("mov", "pcm_alaw"), ("mov", "pcm_mulaw"), ("flac", "flac"),
        ("wav", "pcm_u8"), ("wav", "adpcm_ima_wav"),
    ],
)  # fmt: skip
def test_silence_is_silent_in_every_codec(container: str, codec: str) -> None:
    data = clip(container, frames=[], sound=np.zeros((2, 24_000), np.float32), sound_codec=codec)
    assert silence_reason(read_sound(data)) is not None


@given(
    peak=st.floats(SILENCE_RANGE * 1.01, 1.0),
    offset=st.floats(-0.5, 0.5),
    channels=st.integers(1, 3),
    where=st.integers(0, 999),
)
@settings(max_examples=100)
def test_any_sample_outside_the_range_is_a_sound(
    peak: float, offset: float, channels: int, where: int
) -> None:
    samples = np.full((channels, 1000), offset, np.float64)
    samples[-1, where] += peak
    assert not is_silent(samples)


@pytest.mark.parametrize("gain", [1.0, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_a_quiet_sound_is_a_sound(gain: float, subtype: str) -> None:
    quiet = tone(0.2, RATE) * np.float32(gain)
    assert silence_reason(read_sound(sound_file(quiet, RATE, "WAV", subtype))) is None


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (12, 200, 90)])
@pytest.mark.parametrize("size", [(1, 1), (48, 64), (3000, 2)])
def test_pictures_of_one_colour_each_are_blank(
    colour: tuple[int, int, int], size: tuple[int, int]
) -> None:
    page = np.full((*size, 3), colour, np.uint8)
    assert is_blank(page)
    assert is_blank(page, 255 - page)


@given(
    grey=st.integers(0, 255 - BLANK_RANGE - 1),
    row=st.integers(0, 46),
    column=st.integers(0, 62),
    colour=st.integers(0, 2),
)
@settings(max_examples=100)
def test_the_faintest_and_smallest_mark_is_a_picture(
    grey: int, row: int, column: int, colour: int
) -> None:
    page = np.full((47, 63, 3), grey, np.uint8)
    page[row, column, colour] += BLANK_RANGE
    assert is_blank(page)
    page[row, column, colour] += 1
    assert not is_blank(page)


def test_one_picture_that_is_not_blank_is_enough() -> None:
    black = np.zeros((48, 64, 3), np.uint8)
    assert not is_blank(black, black, quadrants(), black)


@pytest.mark.parametrize("codec", ["libx264", "libvpx", "mpeg4"])
@pytest.mark.parametrize("grey", [0, 77, 255])
def test_a_video_of_one_colour_is_blank_in_every_codec(codec: str, grey: int) -> None:
    container = "webm" if codec == "libvpx" else "mp4"
    film = clip(container, codec, [np.full((48, 64, 3), grey, np.uint8)] * 6)
    recording = read_clip(film, 4).pictures
    assert recording is not None
    assert blank_reason(recording) is not None


def test_of_third_party_files_only_the_one_of_zeros_is_silent(shared: Path) -> None:
    silent, blank = [], []
    for path in sorted((shared / "media").glob("*.[3mw]*")):
        try:
            recording = read_clip(path.read_bytes(), 4)
        except MediaError:
            continue
        if recording.sound is not None and silence_reason(recording.sound):
            silent.append(path.name)
        if recording.pictures is not None and blank_reason(recording.pictures):
            blank.append(path.name)
    assert silent == ["moviepy_no_duration.webm"]
    assert blank == []
