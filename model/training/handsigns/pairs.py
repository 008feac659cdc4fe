"""Pictures of two hands that show different digits, of which one is said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.random import Generator

from model.media.types import Pictures
from model.training import backgrounds
from model.training.backgrounds import cut_background
from model.training.frame_size import draw_size
from model.training.handsigns.clips import BACKGROUNDS, SHORT_SIDE
from model.training.handsigns.dataset import HELD_OUT_DIFFICULTY
from model.training.handsigns.folder import Hand, ShownDigits
from model.training.handsigns.scene import CLIP_HEIGHTS, draw_scene
from model.training.speech.recording import record_for_evaluation
from model.training.two_objects import Box, TwoObjects


def two_hands(digits: ShownDigits, count: int, seed: int) -> Iterator[TwoObjects]:
    """Yield pictures of hands of two different digits, before one busy background, with a recording
    of each digit."""
    for index in range(count):
        rng = np.random.default_rng([seed, index, 2])
        first, second = rng.choice(10, 2, replace=False).tolist()
        hands = [digits.hands[label] for label in (first, second)]
        drawn = [choices[int(rng.integers(len(choices)))] for choices in hands]
        pictures, boxes = _draw(drawn[0], drawn[1], rng)
        words = [digits.words[label] for label in (first, second)]
        sounds = [
            record_for_evaluation(takes[int(rng.integers(len(takes)))], rng).sound
            for takes in words
        ]
        yield TwoObjects(
            pictures=pictures,
            boxes=boxes,
            labels=(first, second),
            sounds=(sounds[0], sounds[1]),
        )


def _draw(first: Hand, second: Hand, rng: Generator) -> tuple[Pictures, tuple[Box, Box]]:
    """Draw a hand in each half of a wide frame, the first on the left as often as not; return the
    picture and the boxes of both."""
    short, long = sorted(draw_size(rng, SHORT_SIDE))
    half = long // 2
    grounds = backgrounds.pool(backgrounds.TEST, BACKGROUNDS, 2)
    ground = cut_background(grounds, rng, short, 2 * half)
    is_left = bool(rng.integers(2))
    frames, boxes = [], []
    for hand, left in ((first, 0 if is_left else half), (second, half if is_left else 0)):
        scene = draw_scene(
            hand, grounds, rng, plain=False, size=(short, half), heights=CLIP_HEIGHTS,
            difficulty=HELD_OUT_DIFFICULTY,
        )  # fmt: skip
        frames.append(replace(scene, ground=ground[:, left : left + half]).frame())
        x0, y0, x1, y1 = scene.box
        boxes.append((x0 + left, y0, x1 + left, y1))
    frame = np.concatenate(frames if is_left else frames[::-1], axis=1)
    return Pictures((frame,), (0.0,)), (boxes[0], boxes[1])
