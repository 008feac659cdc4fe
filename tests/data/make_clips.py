"""Write tests/data/clips: `python -m tests.data.make_clips` from the repository's root.

Ten digits, drawn stroke by stroke while espeak-ng says them, as mp4 (H.264 + AAC) and webm
(VP9 + Opus). Nothing in them was seen or heard in training: neither these strokes nor this voice
at this speed and pitch.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
import soxr
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from model.training.speech.voices import say, spelling

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

FOLDER = Path(__file__).parent / "clips"
SECONDS, FRAME_RATE = 2.0, 15
RATE = 48_000
VOICE, SPEED, PITCH = "en-us+m3", 140, 45

#: Each digit's strokes: points (x, y) in the unit square, y downwards, joined by a smooth curve.
STROKES: dict[int, tuple[tuple[tuple[float, float], ...], ...]] = {
    0: (((0.55, 0.02), (0.2, 0.15), (0.05, 0.5), (0.2, 0.87), (0.5, 0.98), (0.8, 0.85),
         (0.95, 0.5), (0.8, 0.14), (0.5, 0.02)),),
    1: (((0.56, 0.0), (0.53, 0.34), (0.48, 0.67), (0.44, 1.0)),),
    2: (((0.1, 0.25), (0.25, 0.06), (0.55, 0.0), (0.82, 0.14), (0.82, 0.38), (0.55, 0.66),
         (0.08, 0.97)), ((0.08, 0.97), (0.5, 0.95), (0.95, 0.96))),
    3: (((0.12, 0.12), (0.4, 0.0), (0.75, 0.1), (0.78, 0.32), (0.4, 0.47)),
        ((0.4, 0.47), (0.78, 0.56), (0.88, 0.76), (0.7, 0.95), (0.4, 1.0), (0.08, 0.88))),
    4: (((0.2, 0.0), (0.14, 0.28), (0.12, 0.52)), ((0.12, 0.52), (0.5, 0.53), (0.9, 0.48)),
        ((0.78, 0.0), (0.74, 0.5), (0.68, 1.0))),
    5: (((0.88, 0.02), (0.55, 0.03), (0.24, 0.04)), ((0.24, 0.04), (0.2, 0.24), (0.17, 0.45)),
        ((0.17, 0.45), (0.5, 0.4), (0.8, 0.52), (0.86, 0.75), (0.66, 0.95), (0.36, 1.0),
         (0.08, 0.92))),
    6: (((0.72, 0.0), (0.42, 0.18), (0.18, 0.5), (0.16, 0.8), (0.4, 0.99), (0.7, 0.92),
         (0.8, 0.7), (0.62, 0.54), (0.36, 0.58), (0.2, 0.74)),),
    7: (((0.05, 0.06), (0.45, 0.05), (0.9, 0.03)), ((0.9, 0.03), (0.66, 0.4), (0.42, 1.0))),
    8: (((0.8, 0.12), (0.5, 0.0), (0.22, 0.14), (0.28, 0.34), (0.55, 0.5), (0.8, 0.7),
         (0.74, 0.92), (0.48, 1.0), (0.22, 0.9), (0.2, 0.7), (0.5, 0.48), (0.76, 0.3),
         (0.78, 0.12)),),
    9: (((0.8, 0.2), (0.55, 0.02), (0.25, 0.12), (0.2, 0.36), (0.45, 0.5), (0.74, 0.38),
         (0.8, 0.2)), ((0.8, 0.2), (0.76, 0.6), (0.66, 1.0))),
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """Frame `size` (width, height), the digit's `height` over the frame's, its middle (x, y) over
    the frame's sides, and RGB colours."""

    size: tuple[int, int]
    height: float
    middle: tuple[float, float]
    ink: tuple[int, int, int]
    paper: tuple[int, int, int]


LANDSCAPE, PORTRAIT = (320, 240), (240, 320)
LOOKS: dict[int, Look] = {
    0: Look(LANDSCAPE, 0.6, (0.5, 0.5), (30, 30, 40), (235, 230, 215)),
    1: Look(LANDSCAPE, 0.5, (0.3, 0.45), (250, 240, 120), (20, 40, 70)),
    2: Look(PORTRAIT, 0.45, (0.5, 0.6), (240, 240, 240), (60, 20, 60)),
    3: Look(LANDSCAPE, 0.7, (0.6, 0.5), (130, 20, 30), (225, 225, 235)),
    4: Look(LANDSCAPE, 0.45, (0.72, 0.6), (20, 20, 20), (150, 200, 160)),
    5: Look(PORTRAIT, 0.4, (0.45, 0.35), (255, 255, 255), (30, 80, 60)),
    6: Look(LANDSCAPE, 0.55, (0.35, 0.55), (10, 40, 120), (240, 235, 220)),
    7: Look(LANDSCAPE, 0.5, (0.68, 0.42), (250, 235, 190), (45, 50, 60)),
    8: Look(LANDSCAPE, 0.65, (0.5, 0.5), (245, 245, 250), (90, 40, 20)),
    9: Look(PORTRAIT, 0.5, (0.5, 0.5), (25, 25, 25), (230, 200, 150)),
}


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for digit in STROKES:
        frames, sound = drawn(digit), spoken(digit)
        for kind, video, audio in (("mp4", "libx264", "aac"), ("webm", "libvpx-vp9", "libopus")):
            file = FOLDER / f"digit-{digit}.{kind}"
            file.write_bytes(encoded(frames, sound, kind, video, audio))
            print(f"{file}: {file.stat().st_size} bytes")


def drawn(digit: int) -> list[Bytes]:
    """Frames RGB [h, w, 3]; the pen is done after a third of the clip."""
    count = round(SECONDS * FRAME_RATE)
    return [_frame(digit, min(1.0, 3 * (index + 1) / count)) for index in range(count)]


def _frame(digit: int, share: float) -> Bytes:
    look = LOOKS[digit]
    width, height = look.size
    tall = look.height * height
    corner = np.array([look.middle[0] * width - 0.36 * tall, look.middle[1] * height - tall / 2])
    page = np.full((height, width, 3), look.paper, np.uint8)
    strokes = [corner + _curve(points) * (0.72 * tall, tall) for points in STROKES[digit]]
    left = round(share * sum(len(points) for points in strokes))
    for points in strokes:
        drawn, left = points[: max(0, left)], left - len(points)
        if len(drawn):
            fixed = np.rint(drawn * 16).astype(np.int32)  # 1/16 pixels
            thick = max(2, round(0.11 * tall))
            cv2.polylines(page, [fixed], False, look.ink, thick, cv2.LINE_AA, 4)
    return page


def _curve(points: tuple[tuple[float, float], ...]) -> NDArray[np.float64]:
    """A smooth curve through the points, [n, 2], evenly sampled."""
    corners = np.asarray(points)
    lengths = np.r_[0, np.cumsum(np.hypot(*np.diff(corners, axis=0).T))]
    at = np.linspace(0, lengths[-1], max(2, round(lengths[-1] * 60)))
    return np.asarray(PchipInterpolator(lengths, corners)(at))


def spoken(digit: int) -> Floats:
    """The word half a second into the clip, [n] at RATE, over a little noise."""
    rng = np.random.default_rng(digit)
    samples = (1e-3 * rng.standard_normal(round(SECONDS * RATE))).astype(np.float32)
    speech = say(spelling(digit, VOICE), VOICE, SPEED, PITCH, 22_050)
    word = np.asarray(soxr.resample(speech, 22_050, RATE))
    start = RATE // 2
    samples[start : start + len(word)] += 0.5 * word[: len(samples) - start] / np.abs(word).max()
    return samples


def encoded(frames: list[Bytes], sound: Floats, kind: str, video: str, audio: str) -> bytes:
    """A container of this kind with these codecs."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind) as container:
        pictures = container.add_stream(video, rate=FRAME_RATE, options={"crf": "30"})
        pictures.height, pictures.width = frames[0].shape[:2]
        pictures.pix_fmt = "yuv420p"
        voice = container.add_stream(audio, rate=RATE, layout="mono")
        voice.bit_rate = 48_000
        for frame in frames:
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(pictures.encode())
        block = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        block.sample_rate = RATE
        resampler = av.AudioResampler(voice.format, layout="mono", rate=RATE)
        for piece in [*resampler.resample(block), *resampler.resample(None)]:
            container.mux(voice.encode(piece))
        container.mux(voice.encode())
    return file.getvalue()


if __name__ == "__main__":
    main()
