"""Clips to evaluate on: scenes and recordings as H.264 + AAC files, as people post them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.random import Generator

from model.arrays import UInt8Array
from model.training.avdigits.folder import Digits
from model.training.avdigits.scene import Scene, draw_scene
from model.training.mp4_encoder import FRAME_RATES, RATES, Footage, encode
from model.training.speech.recording import Recording, record_for_evaluation
from model.training.task import LabelledClip


def labelled_clips(digits: Digits, count: int, seed: int) -> Iterator[LabelledClip]:
    """Yield `count` clips, all digits equally often; clip i depends only on the seed and i."""
    for index in range(count):
        yield labelled_clip(digits, index % 10, np.random.default_rng([seed, index]))


def labelled_clip(digits: Digits, label: int, rng: Generator) -> LabelledClip:
    """Draw a random clip of one digit."""
    pictures = digits.pictures[label]
    return clip_of(pictures[rng.integers(len(pictures))], digits, label, rng)


def clip_of(picture: UInt8Array, digits: Digits, label: int, rng: Generator) -> LabelledClip:
    """Draw a random clip of this picture [28, 28] with a word of its digit."""
    words = digits.words[label]
    word = words[rng.integers(len(words))]
    scene = draw_scene(picture, rng, short_side=(180, 360))
    recording = record_for_evaluation(word, rng)
    return LabelledClip(
        data=encode(_film(scene, recording, rng), recording, int(rng.choice(RATES))),
        label=label,
        box=scene.box,
        size=(scene.paper.shape[0], scene.paper.shape[1]),
        begin=recording.begin,
        end=recording.end,
    )


def _film(scene: Scene, recording: Recording, rng: Generator) -> Footage:
    """Film the scene for as long as the recording lasts, with a camera's noise."""
    rate = int(rng.choice(FRAME_RATES))
    count = max(2, round(len(recording.samples) / recording.rate * rate))
    grain = rng.uniform(0, 8)
    still = scene.frame().astype(np.float32)
    noise = rng.standard_normal((4, *still.shape), np.float32) * np.float32(grain)
    shots = [np.clip(still + noise[i], 0, 255).astype(np.uint8) for i in range(4)]
    return Footage(tuple(shots[i % 4] for i in range(count)), rate)
