"""Media files made in memory: clips whose frames tell their number, and sounds."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.stream import VideoStream
from hypothesis import strategies as st
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

SIZE = (48, 64)  # height, width of a made clip's frames
_MS = Fraction(1, 1000)
#: Encoders that know one frame rate only.
_OF_ONE_RATE = ("mpeg4", "flv", "gif", "apng", "msmpeg4", "mpeg2video", "mpeg1video", "h263")
_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1", 16: "hexadecagonal"}


def numbered(number: int) -> Bytes:
    """A plain frame whose grey level is 16 + 8 * number, for numbers of 0 to 28."""
    return np.full((*SIZE, 3), 16 + 8 * number, np.uint8)


def number_of(picture: Bytes) -> int:
    """Return the number of a `numbered` frame, which may have been lossily compressed."""
    return round((float(picture.mean()) - 16) / 8)


def quadrants(height: int = 48, width: int = 64) -> Bytes:
    """A picture of four colours, unlike its rotations and mirror images."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = 255, 0, 0
    picture[: height // 2, width // 2 :] = 0, 255, 0
    picture[height // 2 :, : width // 2] = 0, 0, 255
    picture[height // 2 :, width // 2 :] = 255
    return picture


def tone(seconds: float, rate: int, channels: int = 1) -> Floats:
    """A sine for each channel [channels, n], an octave apart, at half of full scale."""
    time = np.arange(round(seconds * rate)) / rate
    pitch = 220 * 2.0 ** np.arange(channels)[:, None]
    return (0.5 * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


def clip(
    container: str = "mp4",
    codec: str = "libx264",
    frames: Sequence[Bytes] | None = None,
    times_ms: Sequence[int] | None = None,
    *,
    group: int = 12,
    aspect: Fraction | None = None,
    pixels: str = "yuv420p",
    encoder: dict[str, str] | None = None,
    sound: Floats | None = None,
    sound_codec: str = "aac",
    sound_rate: int = 48_000,
    sound_bits: int | None = None,
    muxer: dict[str, str] | None = None,
) -> bytes:
    """A clip; its frames are by default 10 numbered ones, 10 a second, a key frame each `group`."""
    frames = [numbered(n) for n in range(10)] if frames is None else frames
    times_ms = range(0, 100 * len(frames), 100) if times_ms is None else times_ms
    file = io.BytesIO()
    with av.open(file, "w", format=container, options=muxer or {}) as output:
        video = audio = None  # both are added before the first packet starts the file
        if frames:
            video = _video(output, codec, frames[0], group, aspect, pixels)
            video.options = encoder or {}
        if sound is not None:
            layout = _LAYOUTS[len(sound)]
            audio = output.add_stream(sound_codec, rate=sound_rate, layout=layout)
            if sound_bits:
                audio.bit_rate = sound_bits
        if video is not None:
            output.mux(_shot(video, frames, times_ms))
        if audio is not None and sound is not None:
            output.mux(_recorded(audio, sound, sound_rate))
    if codec == "libsvtav1" and sys.platform == "linux":
        # As root it makes its caller's thread a real-time one, and so all that is started from it.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return file.getvalue()


def _video(
    output: OutputContainer,
    codec: str,
    frame: Bytes,
    group: int,
    aspect: Fraction | None,
    pixels: str,
) -> VideoStream:
    if codec not in av.codecs_available:
        pytest.skip(f"the FFmpeg that is installed has no {codec} to make a clip with")
    video: VideoStream = output.add_stream(codec, rate=10)
    video.height, video.width = frame.shape[:2]
    video.pix_fmt = "rgb8" if codec == "gif" else pixels
    video.gop_size = group
    video.codec_context.thread_count = 1
    if aspect:
        video.sample_aspect_ratio = aspect
    if codec in _OF_ONE_RATE:
        video.bit_rate = 4_000_000  # at FFmpeg's 200 kbit/s some take one grey for the next
    else:
        video.codec_context.time_base = _MS
    return video


def _shot(video: VideoStream, frames: Sequence[Bytes], times_ms: Sequence[int]) -> list[Packet]:
    packets = []
    for picture, time in zip(frames, times_ms, strict=True):
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        frame.time_base = _MS
        frame.pts = time
        packets += video.encode(frame)
    return packets + video.encode(None)


def _recorded(audio: AudioStream, samples: Floats, rate: int) -> list[Packet]:
    packets = []
    for start in range(0, samples.shape[1], 960):
        block = samples[:, start : start + 960].T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(block, format="flt", layout=audio.layout.name)
        frame.sample_rate = rate
        frame.time_base = Fraction(1, rate)
        frame.pts = start
        packets += audio.encode(frame)
    return packets + audio.encode(None)


def tracks(
    sounds: Sequence[Floats],
    container: str = "mp4",
    codec: str = "aac",
    rate: int = 16_000,
    default: int | None = None,
) -> bytes:
    """A clip of several sound tracks and no picture; `default` is the one that is marked so."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        streams = [output.add_stream(codec, rate=rate, layout=_LAYOUTS[len(s)]) for s in sounds]
        for index, stream in enumerate(streams):
            if default is not None:
                stream.disposition = Disposition.default if index == default else Disposition(0)
        for stream, sound in zip(streams, sounds, strict=True):
            output.mux(_recorded(stream, sound, rate))
    return file.getvalue()


def turned(mp4: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """The mp4 with a, b, c, d as its display matrix: (x, y) is shown at (a x + c y, b x + d y)."""
    at = mp4.index(b"tkhd") + 4 + 40  # version 0: the matrix is 40 bytes into the box
    a, b, c, d = (value << 16 for value in matrix)
    values = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes()
    return mp4[:at] + values + mp4[at + len(values) :]


def without_reordering(mp4: bytes) -> bytes:
    """Remove the reordering delay from the header of an H.264 mp4, as some phones write it.

    The parameter set (H.264, 7.3.2.1.1) ends before its vui_parameters then.
    """
    at = mp4.index(b"avcC") + 4 + 8
    size = int.from_bytes(mp4[at - 2 : at], "big")
    unit = mp4[at : at + size].replace(b"\0\0\3", b"\0\0")
    bits = "".join(f"{byte:08b}" for byte in unit)
    end = 32  # unit's head, profile, constraints and level

    def number() -> int:
        nonlocal end
        zeros = bits.index("1", end) - end
        end += 2 * zeros + 1
        return int(bits[end - zeros - 1 : end], 2) - 1

    number()  # of the set
    if unit[1] == 100:
        for _ in ("chroma", "luma bits", "chroma bits"):
            number()
        end += 2  # transform bypass, no scaling lists
    number()  # frame numbers
    if number() == 0:  # kind of picture order
        number()
    number()  # references
    end += 1
    for _ in ("width", "height"):
        number()
    end += 2  # whole frames alone, direct_8x8
    assert bits[end] == "0"
    end += 1  # no cropping
    shortened = bits[:end] + "01"
    shortened += "0" * (-len(shortened) % 8)
    short = bytes(int(shortened[first : first + 8], 2) for first in range(0, len(shortened), 8))
    return mp4[:at] + short.ljust(size, b"\0") + mp4[at + size :]


def sound_file(samples: Floats, rate: int, kind: str = "WAV", subtype: str | None = None) -> bytes:
    """A sound file of samples [channels, n]."""
    file = io.BytesIO()
    soundfile.write(file, samples.T, rate, format=kind, subtype=subtype)
    return file.getvalue()


def damaged(data: st.DataObject, whole: Sequence[bytes], flips: int) -> bytes:
    """One of these files with up to `flips` bits flipped, and cut short."""
    broken = bytearray(data.draw(st.sampled_from(whole)))
    for _ in range(data.draw(st.integers(0, flips))):
        bit = data.draw(st.integers(0, 8 * len(broken) - 1))
        broken[bit // 8] ^= 1 << bit % 8
    del broken[data.draw(st.integers(1, len(broken))) :]
    return bytes(broken)


def film(
    container: str, codec: str, frames: Sequence[av.VideoFrame], *, group: int = 12, **encoder: str
) -> bytes:
    """A clip of frames in their own pixel format, 10 a second."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        video: VideoStream = output.add_stream(codec, rate=10, options=encoder)
        video.height, video.width = frames[0].height, frames[0].width
        video.pix_fmt = frames[0].format.name
        video.gop_size = group
        video.codec_context.thread_count = 1
        for number, frame in enumerate(frames):
            frame.time_base, frame.pts = Fraction(1, 10), number
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
    return file.getvalue()


def packets_of(data: bytes) -> list[Packet]:
    """The packets of a clip's first video stream."""
    with av.open(io.BytesIO(data)) as file:
        return [packet for packet in file.demux(video=0) if packet.size]


def packed(
    container: str,
    packets: Sequence[Packet],
    *,
    like: bytes,
    muxer: dict[str, str] | None = None,
) -> bytes:
    """The packets as they are, with the codec and the time base of the clip `like`."""
    file = io.BytesIO()
    with (
        av.open(io.BytesIO(like)) as source,
        av.open(file, "w", format=container, options=muxer or {}) as output,
    ):
        video = output.add_stream_from_template(source.streams.video[0])
        for packet in packets:
            packet.stream = video
            output.mux(packet)
    return file.getvalue()


def with_data(packet: Packet, data: bytes, *, shift: int = 0) -> Packet:
    """A packet of other bytes, with the times of this one, later by `shift` of its time units."""
    other: Packet = Packet(data)
    other.time_base, other.duration = packet.time_base, packet.duration
    other.pts = None if packet.pts is None else packet.pts + shift
    other.dts = None if packet.dts is None else packet.dts + shift
    other.is_keyframe = packet.is_keyframe
    return other


def units(annex_b: bytes) -> list[bytes]:
    """The units of a packet of H.264 or HEVC, each with its mark."""
    return [b"\0\0\0\1" + unit.rstrip(b"\0") for unit in annex_b.split(b"\0\0\1")[1:]]
