"""Pictures of two digits of which one is said."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from model.media.types import Pictures
from model.training.avdigits.folder import Digits
from model.training.avdigits.scene import draw_pair
from model.training.speech.recording import record_for_evaluation
from model.training.two_objects import TwoObjects


def two_digits(digits: Digits, count: int, seed: int) -> Iterator[TwoObjects]:
    """Yield pictures of two different digits, with a recording of each of them."""
    for index in range(count):
        rng = np.random.default_rng([seed, index, 2])
        first, second = rng.choice(10, 2, replace=False).tolist()
        images = [digits.pictures[label] for label in (first, second)]
        drawn = [choices[int(rng.integers(len(choices)))] for choices in images]
        scenes = draw_pair((drawn[0], drawn[1]), rng, short_side=(180, 360))
        words = [digits.words[label] for label in (first, second)]
        sounds = [
            record_for_evaluation(takes[int(rng.integers(len(takes)))], rng).sound
            for takes in words
        ]
        yield TwoObjects(
            pictures=Pictures((scenes.frame,), (0.0,)),
            boxes=scenes.boxes,
            labels=(first, second),
            sounds=(sounds[0], sounds[1]),
        )
