"""Files made in memory from the clips of tests/data/clips."""

from __future__ import annotations

import io

import av
import cv2
import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 16_000


def without_sound(clip: bytes) -> bytes:
    """Return an mp4 with the pictures only."""
    out = io.BytesIO()
    with av.open(io.BytesIO(clip), "r") as source, av.open(out, "w", format="mp4") as target:
        video = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = video
                target.mux(packet)
    return out.getvalue()


def png(picture: NDArray[np.uint8]) -> bytes:
    """Return RGB [h, w, 3] as a PNG file."""
    return bytes(cv2.imencode(".png", picture[:, :, ::-1])[1])


def wav(samples: NDArray[np.float64]) -> bytes:
    """Return mono samples [n] as a wav file of 32 bit floats."""
    out = io.BytesIO()
    soundfile.write(out, samples, RATE, format="WAV", subtype="FLOAT")
    return out.getvalue()


def tone(seconds: float = 1.0) -> NDArray[np.float64]:
    """Return samples [n] of a tone of 440 Hz."""
    return np.asarray(0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE))
