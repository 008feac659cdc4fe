"""H.264 and Opus packets, encoded by PyAV as a live client does."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

#: Sample rate of Opus in Hz, and samples of one packet.
OPUS_RATE, OPUS_SAMPLES = 48_000, 960


def h264(pictures: list[NDArray[np.uint8]], key_every: int = 10, **options: str) -> list[bytes]:
    """Encode RGB pictures [h, w, 3] as access units in Annex B, in the order of decoding."""
    return [data for _, data in h264_numbered(pictures, key_every, **options)]


def h264_numbered(
    pictures: list[NDArray[np.uint8]], key_every: int, **options: str
) -> list[tuple[int, bytes]]:
    """As `h264`, each access unit with the number of its picture."""
    encoder: Any = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = pictures[0].shape[:2]
    encoder.pix_fmt = "yuv420p"
    encoder.time_base, encoder.framerate = Fraction(1, 10), Fraction(10, 1)
    encoder.thread_count = 1
    encoder.options = {
        "preset": "veryfast", "tune": "zerolatency", "crf": "18", "g": str(key_every),
        "sc_threshold": "0", **options,
    }  # fmt: skip
    packets = []
    for number, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, "rgb24")
        frame.pts = number
        packets += encoder.encode(frame)
    return [(packet.pts, bytes(packet)) for packet in (*packets, *encoder.encode(None))]


def opus(samples: NDArray[np.float32]) -> list[bytes]:
    """Encode samples [channels, n] at 48 kHz as packets of 20 ms."""
    layout = "mono" if len(samples) == 1 else "stereo"
    encoder: Any = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = OPUS_RATE, layout, "flt"
    encoder.bit_rate = 96_000
    packets = []
    for begin in range(0, samples.shape[1] - OPUS_SAMPLES + 1, OPUS_SAMPLES):
        piece = np.ascontiguousarray(samples[:, begin : begin + OPUS_SAMPLES].T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(piece.astype(np.float32), "flt", layout)
        frame.sample_rate, frame.pts = OPUS_RATE, begin
        packets += encoder.encode(frame)
    return [bytes(packet) for packet in (*packets, *encoder.encode(None))]
