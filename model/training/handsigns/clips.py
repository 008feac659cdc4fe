"""Clips to evaluate on: scenes and recordings as H.264 + AAC files, as people post them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.random import Generator

from model.arrays import UInt8Array
from model.training import backgrounds
from model.training.handsigns.dataset import HELD_OUT_DIFFICULTY
from model.training.handsigns.folder import Hand, ShownDigits
from model.training.handsigns.scene import CLIP_HEIGHTS, Scene, draw_scene, photograph_scene
from model.training.mp4_encoder import FRAME_RATES, RATES, Footage, encode
from model.training.speech.recording import Recording, record_for_evaluation
from model.training.task import LabelledClip

#: Parts of the test set: photographs with their own wall, and hands before other backgrounds.
PLAIN, BUSY = "plain background", "busy background"
#: Number of backgrounds that clips are composed onto.
BACKGROUNDS = 300
#: Shorter side of a clip's frames in pixels.
SHORT_SIDE = (180, 360)


def labelled_clips(
    digits: ShownDigits, count: int, seed: int, kinds: tuple[str, ...] = backgrounds.TEST
) -> Iterator[LabelledClip]:
    """Yield `count` clips, all digits equally often, ten plain and ten busy in turn; clip i depends
    only on the seed and i. `kinds`: of the backgrounds."""
    for index in range(count):
        part = (PLAIN, BUSY)[index // 10 % 2]
        rng = np.random.default_rng([seed, index])
        yield labelled_clip(digits, index % 10, part, rng, kinds)


def labelled_clip(
    digits: ShownDigits,
    label: int,
    part: str,
    rng: Generator,
    kinds: tuple[str, ...] = backgrounds.TEST,
) -> LabelledClip:
    """Draw a random clip of one digit, in a part of the test set."""
    hands, words = digits.hands[label], digits.words[label]
    hand, word = hands[rng.integers(len(hands))], words[rng.integers(len(words))]
    scene = _draw(hand, part, rng, kinds)
    recording = record_for_evaluation(word, rng)
    return LabelledClip(
        data=encode(_film(scene, recording, rng), recording, int(rng.choice(RATES))),
        label=label,
        box=scene.box,
        size=(scene.ground.shape[0], scene.ground.shape[1]),
        begin=recording.begin,
        end=recording.end,
        part=part,
    )


def _draw(hand: Hand, part: str, rng: Generator, kinds: tuple[str, ...]) -> Scene:
    """Draw the scene: half of the plain ones are the photograph as it is, enlarged."""
    if part == PLAIN and rng.random() < 0.5:
        side = int(rng.integers(SHORT_SIDE[0], SHORT_SIDE[1] + 1)) // 2 * 2
        return photograph_scene(_enlarged(hand, side))
    grounds = backgrounds.pool(kinds, BACKGROUNDS, 2)
    return draw_scene(
        hand, grounds, rng, plain=part == PLAIN, short_side=SHORT_SIDE, heights=CLIP_HEIGHTS,
        difficulty=HELD_OUT_DIFFICULTY,
    )  # fmt: skip


def _enlarged(hand: Hand, side: int) -> Hand:
    """Return a hand whose photograph has `side` pixels on its shorter side; both are even."""
    height, width = hand.photograph.shape[:2]
    scale = side / min(height, width)
    size = (round(width * scale) // 2 * 2, round(height * scale) // 2 * 2)

    def resized(picture: UInt8Array) -> Any:
        return cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)

    cutout = type(hand.cutout)(resized(hand.cutout.colour), resized(hand.cutout.cover))
    return Hand(resized(hand.photograph), cutout, hand.signer)


def _film(scene: Scene, recording: Recording, rng: Generator) -> Footage:
    """Film the scene for as long as the recording lasts, by a hand-held camera with noise."""
    rate = int(rng.choice(FRAME_RATES))
    count = max(2, round(len(recording.samples) / recording.rate * rate))
    grain = np.float32(rng.uniform(0, 8))
    drift = rng.uniform(-0.02, 0.02, 2) * scene.ground.shape[0] if rng.random() < 0.3 else (0, 0)
    shots = []
    for i in range(4):
        still = scene.frame((float(drift[0] * i), float(drift[1] * i))).astype(np.float32)
        noise = rng.standard_normal(still.shape, np.float32) * grain
        shots.append(np.clip(still + noise, 0, 255).astype(np.uint8))
    return Footage(tuple(shots[i * 4 // count] for i in range(count)), rate)
