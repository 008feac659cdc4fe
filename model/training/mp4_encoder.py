"""Clips as H.264 + AAC files, as people post them."""

from __future__ import annotations

import io
from dataclasses import dataclass

import av
import numpy as np
import soxr

from model.arrays import UInt8Array
from model.training.speech.recording import Recording

#: Sample rates of the clips' sound in Hz, and frames per second of their picture.
RATES = (8_000, 16_000, 22_050, 44_100, 48_000)
FRAME_RATES = (10, 15, 25, 30)


@dataclass(frozen=True)
class Footage:
    """Frames uint8 RGB [h, w, 3] at `rate` frames per second."""

    frames: tuple[UInt8Array, ...]
    rate: int


def encode(footage: Footage, recording: Recording, rate: int) -> bytes:
    """Encode the frames and the sound as an mp4 file (H.264, AAC mono at `rate` Hz)."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=footage.rate, options={"preset": "veryfast"})
        video.height, video.width = footage.frames[0].shape[:2]
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=rate, layout="mono")
        for frame in footage.frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
        samples = soxr.resample(recording.samples, recording.rate, rate).astype(np.float32)
        sound = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        sound.sample_rate = rate
        container.mux(audio.encode(sound))
        container.mux(audio.encode())
    return file.getvalue()
