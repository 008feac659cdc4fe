"""Clips to load a server with: of several sizes and codecs, always the same."""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

#: Side of the blocks that pictures are made of, in pixels: detail that a codec has to work for.
_BLOCK = 16


@dataclass(frozen=True)
class ClipSpec:
    """A clip: `seconds` of `height` x `width` pixels, `rate` frames a second, a key frame every
    `group` frames."""

    name: str
    container: str
    codec: str
    sound: str
    height: int
    width: int
    seconds: float
    rate: int = 30
    group: int = 30


#: What people post, and how often of ten: small recordings of a browser, a phone's, a camera's.
MIX: tuple[tuple[ClipSpec, int], ...] = (
    (ClipSpec("240p webm, 2 s", "webm", "libvpx", "libopus", 240, 320, 2, 15), 5),
    (ClipSpec("480p mp4, 3 s", "mp4", "libx264", "aac", 480, 640, 3), 3),
    (ClipSpec("720p mp4, 4 s", "mp4", "libx264", "aac", 720, 1280, 4), 2),
)


def render_clip(spec: ClipSpec) -> bytes:
    """The clip's file: a moving texture and a tone."""
    rng = np.random.default_rng(0)
    texture = _texture(rng, spec)
    options = {"g": str(spec.group), "threads": "1"}
    if spec.codec == "libx264":
        options |= {"preset": "veryfast", "crf": "28"}
    file = io.BytesIO()
    with av.open(file, "w", format=spec.container) as container:
        video: Any = container.add_stream(spec.codec, rate=spec.rate, options=options)
        video.width, video.height, video.pix_fmt = spec.width, spec.height, "yuv420p"
        audio: Any = container.add_stream(spec.sound, rate=48_000, layout="mono")
        for index in range(round(spec.seconds * spec.rate)):
            frame = av.VideoFrame.from_ndarray(_shot(texture, spec, index), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, spec.rate)
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for heard in _tone(spec.seconds, audio.format.name):
            container.mux(audio.encode(heard))
        container.mux(audio.encode())
    return file.getvalue()


def _texture(rng: np.random.Generator, spec: ClipSpec) -> Bytes:
    """A picture that is larger than the frame, to move over."""
    cells = (spec.height // _BLOCK + 16, spec.width // _BLOCK + 16, 3)
    colours = rng.integers(0, 255, cells, np.uint8)
    return colours.repeat(_BLOCK, axis=0).repeat(_BLOCK, axis=1)


def _shot(texture: Bytes, spec: ClipSpec, index: int) -> Bytes:
    x, y = round(100 + 90 * np.sin(index / 20)), round(100 + 90 * np.cos(index / 27))
    return np.ascontiguousarray(texture[y : y + spec.height, x : x + spec.width])


def _tone(seconds: float, kind: str) -> list[av.AudioFrame]:
    """440 Hz in frames of 20 ms."""
    frames = []
    for first in range(0, round(seconds * 48_000), 960):
        wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(first, first + 960) / 48_000)
        frame = av.AudioFrame.from_ndarray(wave[None].astype(np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = 48_000, first
        frames.append(frame)
    resampler = av.AudioResampler(format=kind, layout="mono", rate=48_000)
    return [made for frame in frames for made in resampler.resample(frame)]
