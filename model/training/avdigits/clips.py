"""Clips to evaluate on: scenes and recordings as H.264 + AAC files, as people post them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from model.training.avdigits.folder import RATE, Digits
from model.training.avdigits.recording import Recording, record
from model.training.avdigits.scene import Scene, draw_scene
from model.training.task import LabelledClip

Bytes = NDArray[np.uint8]
Rng = np.random.Generator

#: Sample rates of the clips' sound in Hz, and frames per second of their picture.
RATES = (8_000, 16_000, 22_050, 44_100, 48_000)
FRAME_RATES = (10, 15, 25, 30)


def labelled_clips(digits: Digits, count: int, seed: int) -> Iterator[LabelledClip]:
    """Yield `count` clips, all digits equally often; clip i depends only on the seed and i."""
    for index in range(count):
        yield labelled_clip(digits, index % 10, np.random.default_rng([seed, index]))


def labelled_clip(digits: Digits, label: int, rng: Rng) -> LabelledClip:
    """Draw a random clip of one digit."""
    pictures, words = digits.pictures[label], digits.words[label]
    picture, word = pictures[rng.integers(len(pictures))], words[rng.integers(len(words))]
    scene = draw_scene(picture, rng, short_side=(180, 360))
    recording = record(word, RATE, rng, seconds=(1.2, 3.0), speed=0.15, snr_db=rng.uniform(15, 40))
    return LabelledClip(
        data=encode(_film(scene, recording, rng), recording, int(rng.choice(RATES))),
        label=label,
        box=scene.box,
        size=(scene.paper.shape[0], scene.paper.shape[1]),
        begin=recording.begin,
        end=recording.end,
    )


@dataclass(frozen=True)
class Footage:
    """Frames uint8 RGB [h, w, 3] at `rate` frames per second."""

    frames: tuple[Bytes, ...]
    rate: int


def _film(scene: Scene, recording: Recording, rng: Rng) -> Footage:
    """Film the scene for as long as the recording lasts, with a camera's noise."""
    rate = int(rng.choice(FRAME_RATES))
    count = max(2, round(len(recording.samples) / recording.rate * rate))
    grain = rng.uniform(0, 8)
    still = scene.frame().astype(np.float32)
    noise = rng.standard_normal((4, *still.shape), np.float32) * np.float32(grain)
    shots = [np.clip(still + noise[i], 0, 255).astype(np.uint8) for i in range(4)]
    return Footage(tuple(shots[i % 4] for i in range(count)), rate)


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
