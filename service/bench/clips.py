"""The clips of the benchmarks, in several sizes and codecs; reproducible."""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np

from model.arrays import UInt8Array

#: Side of the random blocks in the pictures, in pixels, which give codecs realistic work.
_BLOCK = 16


@dataclass(frozen=True)
class ClipSpec:
    """A clip: `seconds` of `height` x `width` pixels, `rate` frames per second, a key frame every
    `group` frames, and a sound that is mono or "stereo"."""

    name: str
    container: str
    codec: str
    sound: str
    height: int
    width: int
    seconds: float
    rate: int = 30
    group: int = 30
    layout: str = "mono"


#: The mixed load: clips, and their number of ten requests. As recorded by a browser, a phone and a
#: camera.
MIX: tuple[tuple[ClipSpec, int], ...] = (
    (ClipSpec("240p webm, 2 s", "webm", "libvpx", "libopus", 240, 320, 2, 15), 5),
    (ClipSpec("480p mp4, 3 s", "mp4", "libx264", "aac", 480, 640, 3), 3),
    (ClipSpec("720p mp4, 4 s", "mp4", "libx264", "aac", 720, 1280, 4), 2),
)


def render_clip(spec: ClipSpec) -> bytes:
    """Return the file of a clip: a moving texture and a tone, half as loud on the right."""
    rng = np.random.default_rng(0)
    texture = _texture(rng, spec)
    options = {"g": str(spec.group), "threads": "1"}
    if spec.codec == "libx264":
        options |= {"preset": "veryfast", "crf": "28"}
    file = io.BytesIO()
    with av.open(file, "w", format=spec.container) as container:
        video: Any = container.add_stream(spec.codec, rate=spec.rate, options=options)
        video.width, video.height, video.pix_fmt = spec.width, spec.height, "yuv420p"
        audio: Any = container.add_stream(spec.sound, rate=48_000, layout=spec.layout)
        for index in range(round(spec.seconds * spec.rate)):
            frame = av.VideoFrame.from_ndarray(_crop(texture, spec, index), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, spec.rate)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for audio_frame in _tone(spec, audio.format.name):
            container.mux(audio.encode(audio_frame))
        container.mux(audio.encode())
    return file.getvalue()


def _texture(rng: np.random.Generator, spec: ClipSpec) -> UInt8Array:
    """Return a random picture that is larger than the frames."""
    cells = (spec.height // _BLOCK + 16, spec.width // _BLOCK + 16, 3)
    colours = rng.integers(0, 255, cells, np.uint8)
    return colours.repeat(_BLOCK, axis=0).repeat(_BLOCK, axis=1)


def _crop(texture: UInt8Array, spec: ClipSpec, index: int) -> UInt8Array:
    """Return frame `index`: a part of the texture that moves in a circle."""
    x, y = round(100 + 90 * np.sin(index / 20)), round(100 + 90 * np.cos(index / 27))
    return np.ascontiguousarray(texture[y : y + spec.height, x : x + spec.width])


def _tone(spec: ClipSpec, sample_format: str) -> list[av.AudioFrame]:
    """Return a tone of 440 Hz in frames of 20 ms."""
    frames = []
    for first in range(0, round(spec.seconds * 48_000), 960):
        wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(first, first + 960) / 48_000)
        channels = [wave, wave / 2][: 1 + (spec.layout == "stereo")]
        frame = av.AudioFrame.from_ndarray(np.asarray(channels, np.float32), "fltp", spec.layout)
        frame.sample_rate, frame.pts = 48_000, first
        frames.append(frame)
    resampler = av.AudioResampler(format=sample_format, layout=spec.layout, rate=48_000)
    return [resampled for frame in frames for resampled in resampler.resample(frame)]
