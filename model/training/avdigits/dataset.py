"""Training examples of avdigits: a handwritten digit that is shown while it is spoken."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import numpy as np
from numpy.random import Generator

from model.arrays import Float32Array, UInt8Array
from model.media.types import Pictures
from model.preprocess.frames import normalize_level, prepare_frames
from model.preprocess.profiles import PROFILES
from model.preprocess.specs import FrameSpec, SpectrogramSpec
from model.training.avdigits.folder import Digits
from model.training.avdigits.scene import HEIGHTS, SMALL, Scene, draw_scene
from model.training.speech.spectrogram import draw_spectrogram
from model.training.task import BatchPlan

AUDIO = cast(SpectrogramSpec, PROFILES["avdigits"]["audio"])
VISUAL = cast(FrameSpec, PROFILES["avdigits"]["visual"])


@dataclass(frozen=True)
class Scenes:
    """An endless sequence of examples; example i depends only on the seed and i.

    `synthetic` words, by digit, are mixed into the recorded ones. `augmented`: apply augmentations
    for training (stretched spectrograms, heavy noise, many small digits).
    """

    digits: Digits
    seed: int
    synthetic: tuple[tuple[Float32Array, ...], ...] = ()
    augmented: bool = True

    def example(self, index: int, plan: BatchPlan) -> tuple[dict[str, Float32Array], int]:
        """Return tensors [T or 1, C, H, W] of the plan's streams, and the digit."""
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
            streams["visual"] = self._frames(digit, np.random.default_rng(seeds[1]), plan)
        return streams, digit

    def picture(self, index: int) -> UInt8Array:
        """Return the handwriting [28, 28] that the frames of example `index` show."""
        rng = np.random.default_rng([self.seed, index])
        images = self.digits.pictures[int(rng.integers(10))]
        seeds = rng.integers(0, 2**31, 2)
        return np.asarray(images[_draw(images, np.random.default_rng(seeds[1]))])

    def _frames(self, digit: int, rng: Generator, plan: BatchPlan) -> Float32Array:
        images = self.digits.pictures[digit]
        image = images[_draw(images, rng)]
        small = self.augmented and rng.random() < 0.3 * plan.difficulty
        heights = SMALL if small else HEIGHTS
        scene = draw_scene(image, rng, heights=heights, difficulty=plan.difficulty)
        shots = _film(scene, rng, plan.steps)
        pictures = Pictures(tuple(shots), tuple(range(len(shots))))
        tensor = prepare_frames(pictures, VISUAL, plan.steps).tensor
        sigma = plan.difficulty * _draw_grain(rng) if self.augmented else 0.04
        return _add_grain(tensor, plan.steps, sigma, rng)


def _draw(images: UInt8Array, rng: Generator) -> int:
    """Draw which of the images is shown: the first draw of a stream of frames."""
    return int(rng.integers(len(images)))


def _film(scene: Scene, rng: Generator, steps: int) -> list[UInt8Array]:
    """Return one frame of a still scene, or `steps` of a digit that moves or is being written."""
    kind = rng.random()
    if kind < 0.75:
        return [scene.frame()]
    if kind < 0.88:
        drift = rng.uniform(-0.04, 0.04, 2) * scene.paper.shape[0]
        return [scene.frame(shift=(float(drift[0] * i), float(drift[1] * i))) for i in range(steps)]
    time = np.arange(1, steps + 1) / steps
    written = np.minimum(time * rng.uniform(1, 3) + rng.uniform(0, 0.5), 1)
    return [scene.frame(shown=float(share)) for share in written]


def _draw_grain(rng: Generator) -> float:
    """Draw the noise's standard deviation, where the ink is 1: none, little, or much."""
    kind = rng.random()
    return 0.0 if kind < 0.4 else float(rng.uniform(0, 0.1 if kind < 0.8 else 0.35))


def _add_grain(tensor: Float32Array, steps: int, sigma: float, rng: Generator) -> Float32Array:
    """Add noise of standard deviation `sigma`, where the ink is 1, to every frame.

    [T or 1, 1, H, W] becomes [T, 1, H, W]; the padding stays 0. As in a colour picture, each pixel
    is the greatest distance from the paper over three channels, and is levelled again.
    """
    tensor = np.repeat(tensor, steps, 0) if len(tensor) == 1 else tensor
    if not sigma or not tensor.any():  # a blank frame has no ink to set the noise by
        return tensor
    content = np.any(tensor != 0, axis=(0, 1))  # [H, W]
    rows, columns = np.flatnonzero(content.any(1)), np.flatnonzero(content.any(0))
    part = np.s_[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    ink = tensor[part]
    pool, count = _noise_pool(), 3 * ink.size
    if count >= len(pool):  # from 57 steps on; the noise then repeats
        pool = np.resize(pool, count + 1)
    first = int(rng.integers(len(pool) - count))
    noise = pool[first : first + count].reshape(3, *ink.shape) * np.float32(sigma)
    noise[0] += ink
    distance = 255 * np.abs(noise).max(axis=0)
    for frame, noisy in zip(tensor[part], distance, strict=True):
        frame[0] = normalize_level(noisy[0])
    return tensor


@lru_cache(maxsize=1)
def _noise_pool() -> Float32Array:
    """Return normal noise to cut from: to draw it for every example takes a fifth of the time."""
    return np.random.default_rng(0).standard_normal(1 << 21, np.float32)
