"""Training examples of handsigns: a digit that is shown by hand while it is spoken."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.random import Generator

from model.arrays import Float32Array, UInt8Array
from model.media.types import Pictures
from model.preprocess.frames import prepare_frames
from model.preprocess.profiles import PROFILES
from model.preprocess.specs import FrameSpec, SpectrogramSpec
from model.training import backgrounds
from model.training.augmentation import PictureChange, draw_picture_change
from model.training.handsigns.folder import Hand, ShownDigits
from model.training.handsigns.scene import CLIP_HEIGHTS, draw_scene, photograph_scene
from model.training.speech.spectrogram import draw_spectrogram
from model.training.task import BatchPlan

AUDIO = cast(SpectrogramSpec, PROFILES["handsigns"]["audio"])
VISUAL = cast(FrameSpec, PROFILES["handsigns"]["visual"])

#: Share of hands that move, and the greatest movement in a step over the frame's height.
_MOVING, _DRIFT = 0.2, 0.04
#: Share of hands that something hides a part of, at full difficulty.
_COVERED = 0.2
#: Difficulty of the scenes that an epoch is chosen by, and of clips.
HELD_OUT_DIFFICULTY = 0.6


@dataclass(frozen=True)
class Scenes:
    """An endless sequence of examples; example i depends only on the seed and i.

    `kinds` and `backgrounds`: what hands are composed onto, and how many of them. `synthetic`
    words, by digit, are mixed into the recorded ones. `augmented`: apply augmentations for
    training, the plan's difficulty times `difficulty`. `plain`: share of photographs with their own
    wall among these at the plan's full difficulty; at none, all have it, since a network does not
    begin to learn from busy backgrounds. Without augmentations, every other example is plain.
    """

    digits: ShownDigits
    seed: int
    kinds: tuple[str, ...]
    backgrounds: int
    synthetic: tuple[tuple[Float32Array, ...], ...] = ()
    augmented: bool = True
    difficulty: float = 1.0
    plain: float = 0.3

    def example(self, index: int, plan: BatchPlan) -> tuple[dict[str, Float32Array], int]:
        """Return tensors [T or 1, C, H, W] of the plan's streams, and the digit."""
        plain_share = 1 - (1 - self.plain) * plan.difficulty
        plan = replace(plan, difficulty=plan.difficulty * self.difficulty)
        rng = np.random.default_rng([self.seed, index])
        digit = int(rng.integers(10))
        # Each stream has its own seed, so that it does not depend on whether the other is drawn.
        seeds = rng.integers(0, 2**31, 2)
        streams = {}
        if "audio" in plan.streams:
            takes = self.digits.words[digit]
            synthetic = self.synthetic[digit] if self.synthetic else ()
            rng = np.random.default_rng(seeds[0])
            streams["audio"] = draw_spectrogram(takes, synthetic, AUDIO, rng, self.augmented)
        if "visual" in plan.streams:
            rng = np.random.default_rng(seeds[1])
            hands = self.digits.hands[digit]
            hand = hands[int(rng.integers(len(hands)))]
            plain = index % 2 == 0
            if self.augmented:
                plain = rng.random() < plain_share
            draw = self._training_frames if self.augmented else self._held_out_frames
            streams["visual"] = draw(hand, plain, rng, plan)
        return streams, digit

    def _training_frames(
        self, hand: Hand, plain: bool, rng: Generator, plan: BatchPlan
    ) -> Float32Array:
        grounds = backgrounds.pool(self.kinds, self.backgrounds, self.seed)
        scene = draw_scene(
            hand, grounds, rng, plain=plain, covered=_COVERED * plan.difficulty,
            difficulty=plan.difficulty,
        )  # fmt: skip
        steps = plan.steps if rng.random() < _MOVING else 1
        drift = rng.uniform(-_DRIFT, _DRIFT, 2) * scene.ground.shape[0]
        change = _draw_change(rng, plan.difficulty)
        shots = [
            change.apply(scene.frame((float(drift[0] * i), float(drift[1] * i))), rng)
            for i in range(steps)
        ]
        return _add_grain(_prepare(shots, plan.steps), plan, rng)

    def _held_out_frames(
        self, hand: Hand, plain: bool, rng: Generator, plan: BatchPlan
    ) -> Float32Array:
        grounds = backgrounds.pool(self.kinds, self.backgrounds, self.seed)
        if plain and rng.random() < 0.5:
            return _repeat(_prepare([photograph_scene(hand).frame()], plan.steps), plan.steps)
        scene = draw_scene(
            hand, grounds, rng, plain=plain, heights=CLIP_HEIGHTS, difficulty=HELD_OUT_DIFFICULTY,
        )  # fmt: skip
        return _repeat(_prepare([scene.frame()], plan.steps), plan.steps)


def _draw_change(rng: Generator, difficulty: float) -> PictureChange:
    """Draw a change of colours and a blur of the whole frame: the scene has a place already, and
    grain is added to each time step."""
    change = draw_picture_change(rng, difficulty, mirror=False)
    return replace(change, matrix=np.eye(3, dtype=np.float32), grain=0.0, hidden=None)


def _prepare(shots: list[UInt8Array], steps: int) -> Float32Array:
    pictures = Pictures(tuple(shots), tuple(float(i) for i in range(len(shots))))
    return prepare_frames(pictures, VISUAL, steps).tensor


def _repeat(tensor: Float32Array, steps: int) -> Float32Array:
    """Repeat a single frame for all steps, so that still and moving hands fit in one batch."""
    return np.repeat(tensor, steps, 0) if len(tensor) == 1 else tensor


def _add_grain(tensor: Float32Array, plan: BatchPlan, rng: Generator) -> Float32Array:
    """Add noise to every time step, half the time; the padding stays 0."""
    tensor = _repeat(tensor, plan.steps)
    kind = rng.random()
    if kind < 0.5:
        return tensor
    sigma = plan.difficulty * rng.uniform(0, 12 if kind < 0.85 else 40) / 255 / VISUAL.std[0]
    pool = _noise_pool()
    first = int(rng.integers(len(pool) - tensor.size))
    noise = pool[first : first + tensor.size].reshape(tensor.shape)
    content = np.any(tensor != 0, axis=(0, 1), keepdims=True)
    return np.asarray(tensor + noise * content * np.float32(sigma), np.float32)


@lru_cache(maxsize=1)
def _noise_pool() -> Float32Array:
    """Return normal noise to cut from, which is faster than to draw it for every example."""
    return np.random.default_rng(0).standard_normal(1 << 22, np.float32)
