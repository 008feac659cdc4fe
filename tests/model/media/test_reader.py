"""Sound files, lists of pictures, and third-party files."""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.media.reader import (
    Clip,
    Limits,
    MediaError,
    Sound,
    TooLarge,
    UnknownFormat,
    Unusable,
    read_clip,
    read_pictures,
    read_sound,
)
from tests.model.media_files import (
    Bytes,
    Floats,
    clip,
    damaged,
    number_of,
    numbered,
    sound_file,
    tone,
)

pytestmark = pytest.mark.filterwarnings("error")

WAVS = {
    "PCM_U8": 1 / 120,
    "PCM_16": 1 / 30_000,
    "PCM_24": 1e-6,
    "PCM_32": 1e-7,
    "FLOAT": 0,
    "DOUBLE": 0,
    "ALAW": 0.02,
}


def cropped_alike(decoded: Sound, sent: Floats) -> Floats:
    """Return `sent` cropped to the length of `decoded`, which a codec may pad by a block or two."""
    assert 0 <= decoded.samples.shape[1] - sent.shape[1] <= 3000
    return decoded.samples[:, : sent.shape[1]]


# --- sound files ---------------------------------------------------------------------------


@pytest.mark.parametrize("subtype", WAVS)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_sample_width_of_wav_has_the_same_scale(subtype: str, channels: int) -> None:
    sent = tone(0.2, 16_000, channels)
    data = sound_file(sent, 16_000, "WAV", subtype)
    sound = read_sound(data)
    assert sound.sample_rate == 16_000
    assert sound.samples.dtype == np.float32
    assert sound.samples.flags.c_contiguous
    assert sound.duration_s == 0.2
    np.testing.assert_allclose(sound.samples, sent, atol=WAVS[subtype])


@pytest.mark.parametrize("kind", ["FLAC", "AIFF", "W64", "RF64", "CAF", "WAVEX", "AU"])
def test_lossless_files_are_decoded_exactly(kind: str) -> None:
    sent = tone(0.2, 22_050, 2)
    sound = read_sound(sound_file(sent, 22_050, kind, "PCM_16"))
    assert sound.sample_rate == 22_050
    np.testing.assert_allclose(sound.samples, sent, atol=1 / 30_000)


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")],
)
def test_lossy_files_are_decoded_closely(kind: str, subtype: str) -> None:
    sent = tone(1.0, 48_000, 2)
    sound = read_sound(sound_file(sent, 48_000, kind, subtype))
    assert sound.sample_rate == 48_000
    decoded = cropped_alike(sound, sent)
    for decoded_channel, sent_channel in zip(decoded, sent, strict=True):
        assert (
            np.corrcoef(np.abs(np.fft.rfft(decoded_channel)), np.abs(np.fft.rfft(sent_channel)))[
                0, 1
            ]
            > 0.98
        )
        assert float(decoded_channel.std()) == pytest.approx(float(sent_channel.std()), rel=0.05)


@pytest.mark.parametrize(("kind", "codec"), [("mp4", "aac"), ("webm", "libopus"), ("adts", "aac")])
def test_the_sound_of_a_container_without_pictures_is_a_sound_file(kind: str, codec: str) -> None:
    data = clip(kind, frames=[], sound=tone(1.0, 48_000, 2), sound_codec=codec)
    sound = read_sound(data)
    assert sound.sample_rate == 48_000
    assert sound.samples.shape[0] == 2
    assert sound.duration_s == pytest.approx(1.0, abs=0.05)


def test_the_sound_of_a_video_can_be_read_alone() -> None:
    assert read_sound(clip(sound=tone(0.5, 48_000))).duration_s == pytest.approx(0.5, abs=0.05)
    with pytest.raises(Unusable, match="no sound"):
        read_sound(clip())


@pytest.mark.parametrize("span", [(0.0, 0.5), (0.5, 1.0), (1.3, 1.6), (1.5, 9.0)])
def test_a_part_of_a_clip_is_read_as_a_clip(span: tuple[float, float]) -> None:
    start, end = span[0], min(span[1], 2.0)
    sent = tone(2.0, 48_000)
    data = clip(frames=[numbered(index) for index in range(20)], sound=sent)
    frames = round(10 * (end - start))
    part = read_clip(data, frames, span=span)
    assert part.pictures is not None
    assert [number_of(frame) for frame in part.pictures.frames] == list(
        range(round(10 * start), round(10 * end))
    )
    assert part.sound is not None
    whole = read_sound(data)
    first, last = round(start * 48_000), round(span[1] * 48_000)
    assert np.array_equal(part.sound.samples, whole.samples[:, first:last])
    assert np.array_equal(read_sound(data, span=span).samples, part.sound.samples)


def test_a_part_after_the_end_is_unusable() -> None:
    data = clip(sound=tone(1.0, 48_000))
    with pytest.raises(Unusable, match=r"its pictures last 1\.00 s, and 3 s is later"):
        read_clip(data, 2, span=(3, 4), sound=False)
    with pytest.raises(Unusable, match=r"its sound lasts 1\.\d\d s, and 3 s is later"):
        read_sound(data, span=(3, 4))


@pytest.mark.parametrize("rate", [1000, 8000, 11_025, 44_100, 96_000, 192_000, 384_000])
def test_sample_rates_are_unchanged(rate: int) -> None:
    sound = read_sound(sound_file(tone(0.1, rate), rate))
    assert sound.sample_rate == rate
    assert sound.samples.shape == (1, rate // 10)


@pytest.mark.parametrize("channels", [1, 2, 3, 6, 16])
def test_channels_keep_their_order(channels: int) -> None:
    sent = np.repeat(np.arange(channels, dtype=np.float32)[:, None] / 32, 100, axis=1)
    np.testing.assert_allclose(read_sound(sound_file(sent, 8000)).samples, sent, atol=1e-4)
    if channels > 2:
        return
    decoded = read_clip(sound_file(sent, 8000), 1).sound
    assert decoded is not None
    np.testing.assert_allclose(decoded.samples, sent, atol=1e-4)


def test_a_sound_file_is_also_a_clip_without_pictures() -> None:
    sent = tone(0.5, 8000, 2)
    for kind in ("WAV", "FLAC", "MP3"):
        decoded = read_clip(sound_file(sent, 8000, kind), 4)
        assert decoded.sound is not None
        assert decoded.pictures is None
        assert decoded.pictures_problem == "there is no picture in it"


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("VOC", "PCM_16"), ("IRCAM", "ULAW"), ("NIST", "PCM_24"), ("SVX", "PCM_16"),
     ("WAV", "NMS_ADPCM_32"), ("WAV", "IMA_ADPCM"), ("AU", "G721_32")],
)  # fmt: skip
def test_a_format_that_only_soundfile_decodes_is_a_clip_as_well(kind: str, subtype: str) -> None:
    data = sound_file(tone(0.2, 8000), 8000, kind, subtype)
    decoded = read_clip(data, 1)
    assert decoded.sound is not None
    assert decoded.pictures_problem == "there is no picture in it"
    np.testing.assert_array_equal(decoded.sound.samples, read_sound(data).samples)
    assert decoded.sound.duration_s == pytest.approx(0.2, abs=0.06)  # whole blocks
    assert float(decoded.sound.samples[:, :1600].std()) == pytest.approx(0.5 / 2**0.5, rel=0.05)


@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
def test_chained_ogg_files_are_read_to_their_end(subtype: str) -> None:
    data = sound_file(tone(1.5, 48_000), 48_000, "OGG", subtype)
    assert read_sound(data + data).duration_s == pytest.approx(3.0, abs=0.05)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_a_sound_with_nan_is_unusable(value: float, subtype: str) -> None:
    samples = tone(0.1, 8000)
    samples[0, 400] = value
    data = sound_file(samples, 8000, "WAV", subtype)
    with pytest.raises(Unusable, match="NaN"):
        read_sound(data)
    with pytest.raises(Unusable, match="NaN"):
        read_clip(data, 1, pictures=False)


def test_a_double_beyond_float32_is_unusable() -> None:
    data = sound_file(np.full((1, 100), 1e300), 8000, "WAV", "DOUBLE")
    with pytest.raises(Unusable, match="infinite"):
        read_sound(data)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_a_sound_of_no_samples_is_unusable(kind: str) -> None:
    data = sound_file(np.zeros((1, 0), np.float32), 8000, kind)
    with pytest.raises(Unusable):
        read_sound(data)


def test_an_empty_file_is_unusable() -> None:
    with pytest.raises(Unusable, match="empty"):
        read_sound(b"")
    with pytest.raises(Unusable, match="empty"):
        read_clip(b"", 1)
    with pytest.raises(Unusable, match="picture 2 of 2: the file is empty"):
        read_pictures([_png(1), b""])


def test_text_is_an_unknown_sound_format() -> None:
    with pytest.raises(UnknownFormat, match="wav, flac, ogg, mp3 or m4a"):
        read_sound(b"one two three " * 40)
    with pytest.raises(UnknownFormat):
        read_sound(_png(1))


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_truncated_sound_is_read_up_to_its_end(kind: str) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 96_000)).astype(np.float32)
    data = sound_file(noise, 48_000, kind)
    sound = read_sound(data[: len(data) // 2])
    assert 0.3 < sound.duration_s < 1.6  # a page of ogg is long
    assert sound.samples.std() > 0.1


def test_a_header_that_claims_gigabytes_allocates_nothing() -> None:
    data = bytearray(sound_file(tone(0.1, 8000), 8000))
    data[4:8] = data[40:44] = struct.pack("<I", 0xFFFF_FFF0)
    assert read_sound(bytes(data)).samples.shape == (1, 800)


def test_a_sound_that_lasts_too_long_is_refused() -> None:
    data = sound_file(tone(2.0, 8000), 8000)
    with pytest.raises(TooLarge, match="longer than 1 s"):
        read_sound(data, limits=Limits(max_duration_s=1))
    assert read_sound(data, limits=Limits(max_duration_s=2)).duration_s == 2


def test_too_many_channels_or_samples_are_refused() -> None:
    data = sound_file(np.zeros((17, 100), np.float32), 8000)
    with pytest.raises(TooLarge, match="17 channels; at most 16"):
        read_sound(data)
    with pytest.raises(TooLarge, match="at most 1000 over all channels"):
        read_sound(sound_file(tone(0.1, 8000, 2), 8000), limits=Limits(max_samples=1000))


@pytest.mark.parametrize(("rate", "error"), [(500, Unusable), (500_000, TooLarge)])
def test_sample_rates_outside_the_limits_are_refused(rate: int, error: type[Exception]) -> None:
    with pytest.raises(error, match="1000 to 384000"):
        read_sound(sound_file(np.zeros((1, 100), np.float32), rate))


# --- pictures ------------------------------------------------------------------------------


def _png(number: int, picture: Bytes | None = None) -> bytes:
    picture = numbered(number) if picture is None else picture
    return cv2.imencode(".png", picture)[1].tobytes()


def test_pictures_keep_their_order_and_sizes() -> None:
    small = np.full((10, 20, 3), 16 + 8 * 7, np.uint8)
    decoded = read_pictures([_png(5), _png(0, small), _png(3)])
    assert [number_of(picture) for picture in decoded.frames] == [5, 7, 3]
    assert decoded.times_s == (0.0, 1.0, 2.0)
    assert decoded.frames[1].shape == (10, 20, 3)


def test_an_error_names_the_number_of_the_picture() -> None:
    with pytest.raises(UnknownFormat, match="picture 2 of 3: this picture format is not supported"):
        read_pictures([_png(1), b"words", _png(1)])
    with pytest.raises(TooLarge, match="picture 3 of 3: the picture is 64 x 48"):
        read_pictures(
            [_png(0, np.zeros((4, 4, 3), np.uint8))] * 2 + [_png(1)], limits=Limits(max_pixels=99)
        )
    with pytest.raises(Unusable, match=r"^this PNG picture"):
        read_pictures([_png(1)[:60]])


def test_no_pictures_and_too_many_are_refused() -> None:
    with pytest.raises(Unusable, match="at least one"):
        read_pictures([])
    with pytest.raises(TooLarge, match="3 pictures; at most 2"):
        read_pictures([_png(1)] * 3, limits=Limits(max_frames=2))


def test_many_large_pictures_are_shrunk_until_they_fit() -> None:
    decoded = read_pictures([_png(3)] * 4, limits=Limits(max_total_pixels=4 * 24 * 32))
    assert [picture.shape for picture in decoded.frames] == [(24, 32, 3)] * 4


@pytest.mark.parametrize("kind", [".png", ".jpg", ".webp", ".bmp", ".tiff"])
def test_a_still_picture_is_a_clip_of_one_frame(kind: str) -> None:
    data = cv2.imencode(kind, numbered(6))[1].tobytes()
    decoded = read_clip(data, 4)
    assert decoded.pictures is not None
    assert [number_of(picture) for picture in decoded.pictures.frames] == [6]
    assert decoded.sound is None
    assert "has no sound" in (decoded.sound_problem or "")
    with pytest.raises(Unusable, match="has no sound"):
        read_clip(data, 4, pictures=False)


def _moving_webp(numbers: range, times_ms: list[int]) -> bytes:
    film = cv2.Animation()
    film.frames = [np.dstack([numbered(n), np.full((48, 64), 255, np.uint8)]) for n in numbers]
    film.durations = np.array(times_ms, np.int32)
    return bytes(cv2.imencodeanimation(".webp", film)[1])


def test_an_animated_webp_is_sampled_by_time() -> None:
    data = _moving_webp(range(10), [100] * 9 + [1100])
    pictures = read_clip(data, 4).pictures
    assert pictures is not None
    assert [number_of(picture) for picture in pictures.frames] == [2, 7, 9, 9]
    assert pictures.times_s == pytest.approx([0.2, 0.7, 0.9, 0.9])
    assert number_of(read_pictures([data]).frames[0]) == 0  # in `frames`, the first


def test_the_limits_apply_to_animated_webp() -> None:
    data = _moving_webp(range(10), [100] * 10)
    with pytest.raises(TooLarge, match="10 pictures of 64 x 48 pixels; at most 9999 in total"):
        read_clip(data, 4, limits=Limits(max_total_pixels=9999))
    with pytest.raises(TooLarge, match=r"longer than 0\.5 s"):
        read_clip(data, 4, limits=Limits(max_duration_s=0.5))
    with pytest.raises(Unusable, match="damaged or truncated"):
        read_clip(data[: len(data) // 2], 4)


# --- any bytes -----------------------------------------------------------------------------

HEADS = [
    b"",
    b"RIFF\x40\0\0\0WAVEfmt \x10\0\0\0",
    b"fLaC\0\0\0\x22",
    b"OggS\0\x02",
    b"ID3\x03\0\0\0\0\0\x10",
    b"\xff\xfb\x90\x64",
    b"\0\0\0\x18ftypmp42\0\0\0\0",
    b"\x1a\x45\xdf\xa3",
    b"FLV\x01\x05\0\0\0\x09",
    b"RIFF\x40\0\0\0AVI LIST",
    b"\x47\x40\0\x10",
    b"#!AMR\n",
    b"caff\0\x01\0\0",
    b"FORM\0\0\0\x40AIFF",
]


@given(head=st.sampled_from(HEADS), rest=st.binary(max_size=300))
@settings(max_examples=200)
def test_any_bytes_are_decoded_or_raise_a_media_error(head: bytes, rest: bytes) -> None:
    for read in (read_sound, lambda data: read_clip(data, 2)):
        try:
            decoded = read(head + rest)
        except MediaError:
            continue
        assert isinstance(decoded, Sound | Clip)


@cache
def _whole() -> tuple[bytes, ...]:
    sent = tone(0.1, 8000, 2)
    files = [sound_file(sent, 8000, kind) for kind in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "CAF")]
    floats = sound_file(sent, 8000, "WAV", "FLOAT")
    return (*files, floats, clip(frames=[], sound=tone(0.2, 48_000)))


@given(data=st.data())
@settings(max_examples=200)
def test_a_damaged_sound_is_decoded_or_raises_a_media_error(data: st.DataObject) -> None:
    broken = damaged(data, _whole(), flips=6)
    try:
        sound = read_sound(broken)
    except MediaError:
        return
    assert sound.samples.dtype == np.float32
    assert np.isfinite(sound.samples).all()
    assert sound.samples.shape[1] > 0


# --- files of third parties ----------------------------------------------------------------


@pytest.fixture
def media(shared: Path) -> Path:
    return shared / "media"


@pytest.mark.parametrize(
    ("name", "size", "last_s"),
    [
        ("nasa_13013.mp4", (180, 320), 11.4),
        ("nasa_13013_rotated.mp4", (480, 270), 0.47),
        ("testsrc2_vp9.webm", (720, 1280), 0.87),
        ("h265_video.mp4", (128, 128), 0.8),
        ("av1_video.mkv", (360, 640), 4.4),
        ("test_non_zero_start.mp4", (112, 199), 0.33),
        ("tsebml_chrome57.webm", (480, 640), 6.7),
        ("moviepy_no_duration.webm", (720, 1280), 4.3),
        ("exoplayer_sample_fragmented.mp4", (720, 1080), 0.87),
        ("exoplayer_video_desks.3gp", (288, 384), 4.3),
    ],
)
def test_third_party_clips_are_read(
    media: Path, name: str, size: tuple[int, int], last_s: float
) -> None:
    decoded = read_clip((media / name).read_bytes(), 4)
    assert decoded.pictures is not None
    assert [frame.shape for frame in decoded.pictures.frames] == [(*size, 3)] * 4
    assert decoded.pictures.times_s[-1] == pytest.approx(last_s, abs=0.1)
    assert decoded.pictures.times_s[0] < decoded.pictures.times_s[1] < decoded.pictures.times_s[2]
    assert all(frame.std() > 2 for frame in decoded.pictures.frames)


@pytest.mark.parametrize(
    ("name", "channels", "rate", "seconds"),
    [
        ("nasa_13013.mp4", 2, 8000, 13.06),
        ("nasa_13013.mp4.audio.mp3", 2, 8000, 13.06),
        ("sine_mono_s16.wav", 1, 16_000, 4.0),
        ("sine_mono_u8.wav", 1, 16_000, 4.0),
        ("sine_16ch_s16.wav", 16, 16_000, 1.0),
        ("tsebml_chrome57.webm", 1, 48_000, 7.32),
        ("moviepy_no_duration.webm", 2, 48_000, 4.86),
        ("exoplayer_sample_fragmented.mp4", 1, 44_100, 1.07),
        ("exoplayer_video_desks.3gp", 1, 8000, 5.2),
        ("exoplayer_bear-id3.mp3", 2, 48_000, 2.8),
    ],
)
def test_third_party_sounds_are_read(
    media: Path, name: str, channels: int, rate: int, seconds: float
) -> None:
    data = (media / name).read_bytes()
    sound = read_sound(data)
    assert sound.samples.shape[0] == channels
    assert sound.sample_rate == rate
    # Newer FFmpegs cut the last block of AAC, 1024 samples, where the header says that it ends.
    assert sound.duration_s == pytest.approx(seconds, abs=max(0.05, 1024 / rate))
    as_clip = read_clip(data, 1, pictures=False).sound
    assert as_clip is not None
    np.testing.assert_array_equal(as_clip.samples, sound.samples)


def test_the_same_sine_of_eight_and_of_sixteen_bits_is_equally_loud(media: Path) -> None:
    fine = read_sound((media / "sine_mono_s16.wav").read_bytes()).samples
    coarse = read_sound((media / "sine_mono_u8.wav").read_bytes()).samples
    assert np.abs(fine - coarse).max() < 0.01


def test_videos_without_sound_report_it(media: Path) -> None:
    for name in ("testsrc2_vp9.webm", "h265_video.mp4", "av1_video.mkv"):
        decoded = read_clip((media / name).read_bytes(), 1)
        assert decoded.sound is None
        assert decoded.sound_problem == "there is no sound in it"


def test_cover_art_and_codecs_that_ffmpeg_cannot_decode_are_named(media: Path) -> None:
    bear = read_clip((media / "exoplayer_bear-id3.mp3").read_bytes(), 1)
    assert bear.pictures_problem == "its only picture is cover art"
    with pytest.raises(Unusable, match="the codec of its sound is not supported"):
        read_sound((media / "exoplayer_sample_ac4.mp4").read_bytes())


def test_damaged_clips_are_read_as_far_as_possible(media: Path) -> None:
    for name in ("exoplayer_sample_mdat_too_long.mp4", "moviepy_video_with_failing_audio.mp4"):
        decoded = read_clip((media / name).read_bytes(), 4)
        assert decoded.sound is not None
        assert decoded.pictures is not None
    assert read_clip((media / "decord_corrupted.mp4").read_bytes(), 4).pictures is not None
    with pytest.raises(Unusable, match=r"picture \(vp9\) is damaged"):
        read_clip((media / "exoplayer_invalid-bitstream.webm").read_bytes(), 4)
    with pytest.raises(UnknownFormat):
        read_sound((media / "exoplayer_1024_incrementing_bytes.mp3").read_bytes())


def test_every_third_party_file_is_decoded_or_raises_a_media_error(media: Path) -> None:
    files = [path for path in sorted(media.iterdir()) if path.suffix != ".md"]
    assert len(files) > 20
    for path in files:
        data = path.read_bytes()
        for cut in (len(data), len(data) // 2, 100):
            try:
                decoded = read_clip(data[:cut], 3)
            except MediaError:
                continue
            assert decoded.sound is None or np.isfinite(decoded.sound.samples).all()
            assert decoded.sound is not None or decoded.pictures is not None
