"""Makes tests/data/seeds: one small file of each kind that is read, for `python -m tests.fuzz`.

Noise and gradients of this project's own; run with ffmpeg's libraries (PyAV), OpenCV and soundfile.
"""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import soundfile

#: Sample rates of codecs that are not content with 44,100 Hz.
RATES = {"libopus": 48_000}
OUT = Path(__file__).parent / "seeds"
#: File name to container, video codec (None: no picture) and audio codec (None: no sound).
VIDEOS = {
    "h264-aac.mp4": ("mp4", "libx264", "aac"),
    "vp8-opus.webm": ("webm", "libvpx", "libopus"),
    "vp9.webm": ("webm", "libvpx-vp9", None),
    "mpeg4.mkv": ("matroska", "mpeg4", None),
    "mpeg4-mp3.avi": ("avi", "mpeg4", "mp3"),
    "flv1-mp3.flv": ("flv", "flv", "mp3"),
    "h264-pcm.mov": ("mov", "libx264", "pcm_s16le"),
    "moving.apng": ("apng", "apng", None),
    "aac.m4a": ("ipod", None, "aac"),
}
SOUNDS = {
    "pcm16.wav": ("WAV", "PCM_16", 2),
    "pcm24.wav": ("WAV", "PCM_24", 1),
    "float.wav": ("WAV", "FLOAT", 1),
    "u8.wav": ("WAV", "PCM_U8", 1),
    "flac.flac": ("FLAC", "PCM_16", 2),
    "vorbis.ogg": ("OGG", "VORBIS", 1),
    "mp3.mp3": ("MP3", "MPEG_LAYER_III", 1),
}


def main() -> None:
    OUT.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    gradient = np.add.outer(np.arange(24), np.arange(32)).astype(np.uint8) * 4
    colours = np.stack([gradient, gradient[::-1], 255 - gradient], axis=2)
    for name, picture in {
        "rgb.png": colours, "grey.png": gradient, "deep.png": gradient.astype(np.uint16) * 257,
        "alpha.png": np.dstack([colours, gradient]), "rgb.jpg": colours, "rgb.webp": colours,
        "rgb.bmp": colours, "rgb.tiff": colours, "rgb.gif": colours, "rgb.avif": colours,
        "alpha.avif": np.dstack([colours, gradient]), "float.tiff": gradient.astype("f4") / 255,
    }.items():  # fmt: skip
        (OUT / name).write_bytes(bytes(cv2.imencode(f".{name.split('.')[1]}", picture)[1]))
    noise = rng.uniform(-0.3, 0.3, (2000, 2)).astype(np.float32)
    for name, (kind, subtype, channels) in SOUNDS.items():
        out = io.BytesIO()
        soundfile.write(out, noise[:, :channels], 8000, format=kind, subtype=subtype)
        (OUT / name).write_bytes(out.getvalue())
    for name, (container, video, audio) in VIDEOS.items():
        (OUT / name).write_bytes(film(container, video, audio, colours, noise))


def film(
    container: str, video: str | None, audio: str | None, picture: np.ndarray, noise: np.ndarray
) -> bytes:
    """Five frames of the picture, moved on from frame to frame, and a quarter of a second."""
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        pictures = file.add_stream(video, rate=20) if video else None
        sounds = (
            file.add_stream(audio, rate=48_000 if audio == "libopus" else 44_100) if audio else None
        )
        if pictures is not None:
            pictures.width, pictures.height = 32, 24
            pictures.pix_fmt = "rgb24" if video == "apng" else "yuv420p"
            for index in range(5):
                pixels = np.ascontiguousarray(np.roll(picture, index, 1))
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 20)
                file.mux(pictures.encode(frame))
            file.mux(pictures.encode(None))
        if sounds is not None:
            rate = sounds.rate
            samples = np.resize(noise[:, 0], (1, rate // 4)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            resampler = av.AudioResampler(
                format=sounds.format, layout="mono", rate=rate, frame_size=sounds.frame_size or 0
            )
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                file.mux(sounds.encode(part))
            file.mux(sounds.encode(None))
    return out.getvalue()


if __name__ == "__main__":
    main()
