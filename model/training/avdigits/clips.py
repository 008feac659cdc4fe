"""Clips to be judged by: scenes and recordings as the H.264 + AAC files that people post."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np
import soxr
from numpy.typing import NDArray

from model.training.avdigits.dataset import RATE, Digits
from model.training.avdigits.recording import Recording, record
from model.training.avdigits.scene import Scene, draw_scene

Bytes = NDArray[np.uint8]
Rng = np.random.Generator

#: Sample rates of the clips' sound in Hz, and frames per second of their picture.
RATES = (8_000, 16_000, 22_050, 44_100, 48_000)
FRAME_RATES = (10, 15, 25, 30)


@dataclass(frozen=True)
class LabelledClip:
    """One clip and what is in it.

    `data` is an mp4 file, `box` (left, top, right, bottom) that of the digit's ink in pixels of
    a frame of `size` (height, width); the word is said from `begin` to `end` in seconds.
    """

    data: bytes
    label: int
    box: tuple[float, float, float, float]
    size: tuple[int, int]
    begin: float
    end: float


def labelled_clips(digits: Digits, count: int, seed: int) -> Iterator[LabelledClip]:
    """`count` clips, all digits equally often; clip i depends on the seed and i alone."""
    for index in range(count):
        yield labelled_clip(digits, index % 10, np.random.default_rng([seed, index]))


def labelled_clip(digits: Digits, label: int, rng: Rng) -> LabelledClip:
    """A random clip of one digit."""
    pictures, words = digits.pictures[label], digits.words[label]
    picture, word = pictures[rng.integers(len(pictures))], words[rng.integers(len(words))]
    scene = draw_scene(picture, rng, short_side=(180, 360))
    made = record(word, RATE, rng, seconds=(1.2, 3.0), speed=0.15, snr_db=rng.uniform(15, 40))
    return LabelledClip(
        data=encoded(_shots(scene, made, rng), made, int(rng.choice(RATES))),
        label=label,
        box=scene.box,
        size=(scene.paper.shape[0], scene.paper.shape[1]),
        begin=made.begin,
        end=made.end,
    )


@dataclass(frozen=True)
class _Film:
    """Frames uint8 RGB [h, w, 3], `rate` of them a second."""

    frames: tuple[Bytes, ...]
    rate: int


def _shots(scene: Scene, made: Recording, rng: Rng) -> _Film:
    """The scene for as long as the sound lasts, with a camera's noise."""
    rate = int(rng.choice(FRAME_RATES))
    count = max(2, round(len(made.samples) / made.rate * rate))
    grain = rng.uniform(0, 8)
    still = scene.frame().astype(np.float32)
    noise = rng.standard_normal((4, *still.shape), np.float32) * np.float32(grain)
    shots = [np.clip(still + noise[i], 0, 255).astype(np.uint8) for i in range(4)]
    return _Film(tuple(shots[i % 4] for i in range(count)), rate)


def encoded(film: _Film, made: Recording, rate: int) -> bytes:
    """An mp4 file (H.264, AAC mono at `rate` Hz) of the frames and the sound."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=film.rate, options={"preset": "veryfast"})
        video.height, video.width = film.frames[0].shape[:2]
        video.pix_fmt = "yuv420p"
        audio = container.add_stream("aac", rate=rate, layout="mono")
        for frame in film.frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
        samples = soxr.resample(made.samples, made.rate, rate).astype(np.float32)
        sound = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        sound.sample_rate = rate
        container.mux(audio.encode(sound))
        container.mux(audio.encode())
    return file.getvalue()
