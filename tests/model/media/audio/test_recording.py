"""Sound of sound files and containers: complete, and equal in every form field."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.media.audio.sound_file import read_sound_file
from model.media.audio.track import concatenate
from model.media.container import read_container
from model.media.headers import ogg
from model.media.headers.id3 import strip_leading_tags
from model.media.reader import read_clip, read_sound
from model.media.types import Clip, Limits, MediaError, Sound, TooLarge, Unusable
from tests.model.media_files import Floats, clip, damaged, numbered, sound_file, tone, tracks

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.slow]

#: (container, codec, sample rate) as FFmpeg writes them, and (kind, subtype) as soundfile does.
CONTAINERS = [
    ("mp4", "aac", 48_000), ("ipod", "alac", 44_100), ("mov", "pcm_s24le", 48_000),
    ("webm", "libopus", 48_000), ("matroska", "flac", 22_050), ("avi", "pcm_u8", 8000),
    ("flv", "adpcm_swf", 44_100), ("mpegts", "mp2", 44_100), ("mpegts", "aac", 24_000),
    ("adts", "aac", 16_000), ("ac3", "ac3", 48_000), ("tta", "tta", 44_100),
    ("wav", "ac3", 48_000), ("ogg", "flac", 44_100), ("mp3", "libmp3lame", 44_100),
    ("caf", "adpcm_ima_qt", 22_050),
]  # fmt: skip
SOUND_FILES = [
    ("WAV", "PCM_U8"), ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "PCM_32"), ("WAV", "FLOAT"),
    ("WAV", "DOUBLE"), ("WAV", "ALAW"), ("WAV", "IMA_ADPCM"), ("AIFF", "PCM_16"), ("AU", "ULAW"),
    ("CAF", "PCM_24"), ("CAF", "ALAC_16"), ("W64", "PCM_16"), ("RF64", "FLOAT"), ("VOC", "PCM_16"),
    ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"),
]  # fmt: skip
MANY_CHANNELS = ("WAV", "AIFF", "CAF", "FLAC")


@cache
def whole(kind: str, codec: str, rate: int, channels: int) -> bytes:
    """A third of a second of tones, by FFmpeg (lower case) or soundfile (upper case)."""
    sent = tone(0.35, rate, channels)
    if kind.islower():
        return clip(kind, frames=[], sound=sent, sound_codec=codec, sound_rate=rate)
    return sound_file(sent, rate, kind, codec)


@st.composite
def sound_files(draw: st.DrawFn) -> bytes:
    """A file of any kind, rate and number of channels."""
    kind, codec, rate = draw(
        st.sampled_from([*CONTAINERS, *((kind, codec, 0) for kind, codec in SOUND_FILES)])
    )
    choices = [1, 2]
    if kind in MANY_CHANNELS and codec.startswith("PCM"):
        choices += [6, 8]
    if codec == "adpcm_swf":
        choices = [1]
    channels = draw(st.sampled_from(choices))
    return whole(kind, codec, rate or draw(st.sampled_from([8000, 48_000])), channels)


def id3(size: int = 40, flags: int = 0) -> bytes:
    """An ID3v2.4 tag with a title and padding, `size` bytes behind its head."""
    frame = b"TIT2\0\0\0\x05\0\0\x03abcd"
    head = b"ID3\x04\0" + bytes([flags]) + bytes([0, 0, size >> 7, size & 0x7F])
    return head + frame.ljust(size, b"\0") + (b"3DI" + head[3:] if flags & 0x10 else b"")


def outcome(read: Callable[[], Sound | None]) -> Sound | type[MediaError] | None:
    try:
        return read()
    except MediaError as error:
        return type(error)


def assert_every_field_reads_it_alike(data: bytes) -> None:
    as_audio = outcome(lambda: read_sound(data))
    for pictures in (True, False):
        as_clip = outcome(lambda pictures=pictures: read_clip(data, 2, pictures=pictures).sound)  # type: ignore[misc]
        if isinstance(as_audio, Sound):
            assert isinstance(as_clip, Sound)
            assert as_clip.sample_rate == as_audio.sample_rate
            np.testing.assert_array_equal(as_clip.samples, as_audio.samples)
        elif as_clip is None:  # the clip's pictures alone can be read
            assert pictures
            assert as_audio is Unusable
        else:
            assert as_clip is as_audio


# --- every field ---------------------------------------------------------------------------


@given(first=sound_files(), second=sound_files(), data=st.data())
@settings(max_examples=120)
def test_every_field_gives_the_same_samples_of_the_same_file(
    first: bytes, second: bytes, data: st.DataObject
) -> None:
    change = data.draw(st.sampled_from(["whole", "truncated", "joined", "damaged", "tagged"]))
    if change == "truncated":
        first = first[: data.draw(st.integers(1, len(first)))]
    elif change == "joined":
        first += second
    elif change == "damaged":
        first = damaged(data, [first], flips=6)
    elif change == "tagged":
        first = id3() + first
    assert_every_field_reads_it_alike(first)


def test_every_field_reads_third_party_files_alike(shared: Path) -> None:
    paths = [*(shared / "cases").glob("*.[fmw]*"), *(shared / "media").glob("*.[3mw]*")]
    assert len(paths) > 20
    for path in paths:
        assert_every_field_reads_it_alike(path.read_bytes())


# --- to the end ----------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "codec", "rate"), CONTAINERS)
def test_a_containers_sound_has_all_samples_of_its_decoder(
    kind: str, codec: str, rate: int
) -> None:
    data = whole(kind, codec, rate, 1)
    limits = Limits()
    sound = read_container(data, 1, sound=True, pictures=False, limits=limits, accepted="").sound
    with av.open(io.BytesIO(data)) as file:  # decodes what is left in the decoder at the end
        truth = sum(frame.samples for frame in file.decode(audio=0))
    assert sound is not None
    assert sound.samples.shape == (1, truth)
    assert sound.complete
    assert sound.duration_s == pytest.approx(0.35, abs=0.12)


@pytest.mark.parametrize(("kind", "codec"), SOUND_FILES)
@pytest.mark.parametrize("channels", [1, 2])
def test_a_sound_file_has_all_of_its_samples(kind: str, codec: str, channels: int) -> None:
    rate = 48_000
    sound = read_sound(whole(kind, codec, rate, channels))
    assert sound.complete
    assert sound.samples.shape[0] == channels
    assert sound.sample_rate == rate
    assert 0 <= sound.samples.shape[1] - 0.35 * rate <= 4096  # whole blocks


@pytest.mark.parametrize("codec", ["wmav1", "wmav2"])
def test_the_decoder_is_flushed_at_the_end_of_the_stream(codec: str) -> None:
    sent = tone(0.35, 44_100)
    data = clip("asf", frames=[], sound=sent, sound_codec=codec, sound_rate=44_100,
                sound_bits=64_000)  # fmt: skip
    with av.open(io.BytesIO(data)) as file:
        packets = [packet for packet in file.demux(audio=0) if packet.size]
        before_end = sum(frame.samples for packet in packets for frame in packet.decode())
        decoded_samples = sum(frame.samples for frame in file.streams.audio[0].decode(None))
    assert decoded_samples > 0
    assert read_sound(data).samples.shape == (1, before_end + decoded_samples)


def test_the_end_of_a_sound_of_wma_is_read(shared: Path) -> None:
    data = (shared / "cases/wma_end.wma").read_bytes()
    assert read_sound(data).duration_s == pytest.approx(0.427, abs=0.001)


def of_unknown_length(flac: bytes) -> bytes:
    """The FLAC with 0 as its number of samples, as an encoder that writes to a pipe leaves it."""
    at = 4 + 4 + 10 + 3  # the last four bits of byte 13 of STREAMINFO, and the four bytes behind
    head = bytes([flac[at] & 0xF0])
    return flac[:at] + head + bytes(4) + flac[at + 5 :]


@pytest.mark.parametrize("seconds", [0.1, 1.4, 2.0])
def test_flac_of_unknown_length_is_read_to_its_end(seconds: float) -> None:
    sent = tone(seconds, 48_000)
    data = sound_file(sent, 48_000, "FLAC")
    unknown = of_unknown_length(data)
    assert unknown != data
    np.testing.assert_array_equal(read_sound(unknown).samples, read_sound(data).samples)
    alone = read_sound_file(unknown, Limits())
    assert alone is not None
    np.testing.assert_array_equal(alone.samples, read_sound(data).samples)


def broken(data: bytes, at: float) -> bytes:
    """The file without 3000 bytes from a share of its length on."""
    first = int(at * len(data))
    return data[:first] + data[first + 3000 :]


@pytest.mark.parametrize(
    ("kind", "codec"), [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)]
)
@pytest.mark.parametrize("at", [0.3, 0.5, 0.8])
def test_the_longer_sound_of_two_libraries_is_returned(
    kind: str, codec: str | None, at: float
) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 96_000)).astype(np.float32)
    data = broken(sound_file(noise, 48_000, kind, codec), at)
    limits = Limits()
    by_pyav = read_container(data, 1, sound=True, pictures=False, limits=limits, accepted="").sound
    by_soundfile = read_sound_file(data, limits)
    lengths = [s.samples.shape[1] for s in (by_pyav, by_soundfile) if s is not None]
    sound = read_sound(data)
    assert sound.samples.shape[1] == max(lengths)
    assert sound.duration_s > 0.4  # a page of Opus is a second long


# --- changes in mid-stream -----------------------------------------------------------------


def pitch(samples: Floats, rate: int) -> float:
    """The strongest frequency in Hz, by the longest channel's spectrum."""
    spectrum = np.abs(np.fft.rfft(samples[0] * np.hanning(samples.shape[1])))
    return float(spectrum.argmax() * rate / samples.shape[1])


JOINED = [
    ("mp3", "libmp3lame"), ("adts", "aac"), ("mpegts", "aac"), ("mpegts", "mp2"),
    ("mpegts", "ac3"), ("ac3", "ac3"), ("ogg", "flac"), ("OGG", "VORBIS"), ("OGG", "OPUS"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "codec"), JOINED)
@pytest.mark.parametrize(
    ("first", "second"), [((48_000, 2), (24_000, 1)), ((24_000, 1), (48_000, 2))]
)
def test_a_sound_whose_format_changes_is_read_completely(
    kind: str, codec: str, first: tuple[int, int], second: tuple[int, int]
) -> None:
    if codec == "ac3":  # it knows no 24 kHz
        first, second = ((max(rate, 32_000), channels) for rate, channels in (first, second))

    def part(rate: int, channels: int, hertz: float) -> bytes:
        time = np.arange(rate) / rate
        sent = np.tile(0.5 * np.sin(2 * np.pi * hertz * time), (channels, 1)).astype(np.float32)
        if kind.isupper():
            return sound_file(sent, rate, kind, codec)
        return clip(kind, frames=[], sound=sent, sound_codec=codec, sound_rate=rate)

    data = part(*first, 440) + part(*second, 1000)
    sound = read_sound(data)
    assert sound.sample_rate == 48_000
    assert sound.samples.shape[0] == 2
    assert sound.duration_s == pytest.approx(2.0, abs=0.15)
    for begin, hertz in ((0.3, 440), (1.3, 1000)):
        at = round(begin * 48_000)
        middle = sound.samples[:, at : at + 24_000]
        assert pitch(middle, 48_000) == pytest.approx(hertz, abs=3)
        # Channels that a part lacks are filled, so its level stays.
        assert float(middle.mean(axis=0).std()) == pytest.approx(0.5 / 2**0.5, rel=0.1)
    assert_every_field_reads_it_alike(data)


@pytest.mark.parametrize(("kind", "codec"), [("mp3", "libmp3lame"), ("mpegts", "mp2")])
def test_every_frame_has_the_rate_of_its_own_header(kind: str, codec: str) -> None:
    rates = {1: 24_000, 2: 48_000}  # by channels
    data = b"".join(
        clip(kind, frames=[], sound=tone(0.5, rates[n], n), sound_codec=codec, sound_rate=rates[n])
        for n in (1, 2, 1)
    )
    seconds = 0.0
    with av.open(io.BytesIO(data)) as file:
        for packet in file.demux(audio=0):
            try:
                frames = list(packet.decode())
            except av.error.InvalidDataError:  # the first frame of a part needs one before it
                continue
            seconds += sum(frame.samples / rates[frame.layout.nb_channels] for frame in frames)
    assert read_sound(data).duration_s == pytest.approx(seconds, abs=0.001)


@given(
    formats=st.lists(
        st.tuples(st.sampled_from([8000, 22_050, 48_000]), st.integers(1, 6)),
        min_size=1,
        max_size=4,
    )
)
@settings(max_examples=40)
def test_sounds_are_concatenated_at_the_highest_rate_with_most_channels(
    formats: list[tuple[int, int]],
) -> None:
    parts = [
        Sound(0.1 * (1 + index) + 0 * tone(0.25, rate, channels), rate)
        for index, (rate, channels) in enumerate(formats)
    ]
    sound = concatenate(parts, Limits(), complete=True)
    assert sound.sample_rate == max(rate for rate, _ in formats)
    assert sound.samples.shape[0] == max(channels for _, channels in formats)
    assert sound.samples.dtype == np.float32
    assert sound.samples.flags.c_contiguous
    assert sound.duration_s == pytest.approx(0.25 * len(parts), abs=0.001)
    for index in range(len(parts)):
        at = round((0.25 * index + 0.125) * sound.sample_rate)
        assert sound.samples[:, at].mean() == pytest.approx(0.1 * (1 + index), abs=0.01)


def test_sounds_that_exceed_the_limits_together_are_refused() -> None:
    parts = [Sound(np.zeros((1, 8000), np.float32), 8000)] * 3
    with pytest.raises(TooLarge, match="longer than 2 s"):
        concatenate(parts, Limits(max_duration_s=2), complete=True)
    wide = [*parts, Sound(np.zeros((16, 100), np.float32), 384_000)]
    with pytest.raises(TooLarge, match="at most 10000000 over all channels"):
        concatenate(wide, Limits(max_samples=10_000_000), complete=True)


def test_the_links_of_an_ogg_file_are_split_whatever_their_content() -> None:
    parts = [sound_file(tone(0.2, 48_000, n), 48_000, "OGG", "VORBIS") for n in (1, 2, 1)]
    assert ogg.split_links(b"".join(parts)) == parts
    assert ogg.split_links(parts[0]) == [parts[0]]
    assert ogg.split_links(b"RIFF" + parts[0] * 2) == [b"RIFF" + parts[0] * 2]
    with pytest.raises(TooLarge, match="chain of too many Ogg files; at most 100"):
        ogg.split_links(parts[0] * 101)


def test_a_damaged_link_of_an_ogg_file_is_skipped() -> None:
    first, second = (sound_file(tone(1.0, 48_000), 48_000, "OGG", "VORBIS") for _ in range(2))
    ruined = first[:60] + bytes(len(first) - 60)
    sound = read_sound(ruined + second)
    assert sound.duration_s == pytest.approx(1.0, abs=0.01)


def test_chained_ogg_files_keep_their_pictures() -> None:
    film = clip("ogg", "libtheora", [numbered(9)] * 6, sound=tone(0.5, 48_000),
                sound_codec="libopus")  # fmt: skip
    recording = read_clip(film + film, 2)
    assert recording.pictures is not None
    assert recording.sound is not None
    assert recording.sound.duration_s == pytest.approx(1.0, abs=0.05)


def test_a_sound_that_changes_from_stereo_to_mono_is_read_completely(shared: Path) -> None:
    sound = read_sound((shared / "cases/mono_after_stereo.mp3").read_bytes())
    assert sound.duration_s == pytest.approx(2.69, abs=0.01)
    assert sound.samples.shape[0] == 2


# --- tags ----------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", [id3(), id3(300), id3() + id3(130), id3(flags=0x10)])
@pytest.mark.parametrize(
    ("kind", "codec", "rate"),
    [
        *((kind, codec, 48_000) for kind, codec in SOUND_FILES if kind != "MP3"),
        ("mp4", "aac", 48_000), ("webm", "libopus", 48_000), ("flv", "adpcm_swf", 44_100),
        ("ac3", "ac3", 48_000),
    ],
)  # fmt: skip
def test_leading_tags_change_nothing_in_any_format(
    kind: str, codec: str, rate: int, tag: bytes
) -> None:
    data = whole(kind, codec, rate, 1)
    assert strip_leading_tags(tag + data) == data
    np.testing.assert_array_equal(read_sound(tag + data).samples, read_sound(data).samples)
    tagged = read_clip(tag + data, 1).sound
    assert tagged is not None
    np.testing.assert_array_equal(tagged.samples, read_sound(data).samples)


@pytest.mark.parametrize("data", [b"", b"ID3", id3(), id3()[:20], b"ID3" + bytes(7), id3() + b"x"])
def test_an_unknown_format_keeps_its_tag(data: bytes) -> None:
    assert strip_leading_tags(data) == data


def test_an_mp3_keeps_its_tag_which_may_hold_cover_art() -> None:
    data = id3() + whole("MP3", "MPEG_LAYER_III", 48_000, 1)
    assert strip_leading_tags(data) == data
    assert read_sound(data).duration_s == pytest.approx(0.35, abs=0.05)


# --- tracks --------------------------------------------------------------------------------

NOTHING = np.zeros((1, 8000), np.float32)


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mp4", "aac"), ("matroska", "aac"), ("mov", "pcm_s16le"), ("mpegts", "mp2")],
)
@pytest.mark.parametrize(
    ("order", "selected"), [("szz", 1), ("zsz", 2), ("zzs", 3), ("zss", 2), ("zz", 1), ("s", 1)]
)
def test_the_first_audio_track_that_is_not_silent_is_selected(
    container: str, codec: str, order: str, selected: int
) -> None:
    sounds = [tone(0.5, 16_000) if letter == "s" else NOTHING for letter in order]
    data = tracks(sounds, container, codec)
    for sound in (read_sound(data), read_clip(data, 1).sound):
        assert sound is not None
        assert (sound.track, sound.tracks) == (selected, len(order))
        assert (sound.samples.std() > 0.1) == ("s" in order)


@pytest.mark.parametrize(("first", "selected"), [("sound", 3), ("nothing", 1)])
def test_the_default_track_comes_before_the_others(first: str, selected: int) -> None:
    speech = tone(0.5, 16_000)
    last = speech if first == "sound" else NOTHING
    sound = read_sound(tracks([speech, speech, last], "matroska", "aac", default=2))
    assert (sound.track, sound.tracks) == (selected, 3)


def test_a_track_that_cannot_be_decoded_is_skipped() -> None:
    data = bytearray(tracks([tone(0.5, 16_000)] * 2, "mov", "pcm_s16le"))
    at = data.index(b"sowt", data.index(b"stsd"))
    data[at : at + 4] = b"zzzz"
    sound = read_sound(bytes(data))
    assert (sound.track, sound.tracks) == (2, 2)


def test_limits_apply_to_every_decoded_track() -> None:
    long = np.pad(tone(0.5, 16_000), ((0, 0), (0, 32_000)))
    data = tracks([NOTHING, long], "mov", "pcm_s16le")
    with pytest.raises(TooLarge, match="longer than 1 s"):
        read_sound(data, limits=Limits(max_duration_s=1))


def test_the_limits_apply_to_the_rate_of_a_damaged_frame() -> None:
    data = bytearray(sound_file(tone(0.1, 8000), 8000))
    data[24:28] = struct.pack("<I", 900_000)
    with pytest.raises(TooLarge, match="sample rate of 900000 Hz"):
        read_sound(bytes(data))
    assert isinstance(read_clip(sound_file(tone(0.1, 8000), 8000), 1), Clip)
