"""avdigits: a digit seen (MNIST's handwriting) while it is heard (Free Spoken Digit Dataset)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from model.media.reader import Pictures, Sound
from model.preprocess.frames import normalize_level, prepare_frames
from model.preprocess.specs import FrameSpec, SpectrogramSpec
from model.preprocess.spectrogram import prepare_spectrogram
from model.training.avdigits.folder import (
    HELD_OUT_PICTURES,
    HELD_OUT_SPEAKER,
    RATE,
    DataError,
    Digits,
    halves,
    load,
)
from model.training.avdigits.recording import record
from model.training.avdigits.scene import HEIGHTS, SMALL, Scene, draw_scene

__all__ = [
    "HELD_OUT_PICTURES",
    "HELD_OUT_SPEAKER",
    "LABELS",
    "RATE",
    "Batches",
    "DataError",
    "Digits",
    "Plan",
    "Scenes",
    "halves",
    "load",
]

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Rng = np.random.Generator

LABELS = tuple(str(digit) for digit in range(10))


@dataclass(frozen=True)
class Plan:
    """What a batch is to have: which streams, how many time steps, and how hard (0 to 1)."""

    streams: tuple[str, ...] = ("audio", "visual")
    steps: int = 4
    hardness: float = 1.0


@dataclass(frozen=True)
class Scenes:
    """Where training clips come from.

    Clip i depends on the seed and i alone. `synthetic` words by digit are mixed into the real
    ones. `plain` leaves out what is meant for training alone: stretched spectrograms
    and heavy noise.
    """

    digits: Digits
    audio: SpectrogramSpec
    visual: FrameSpec
    seed: int
    synthetic: tuple[tuple[Floats, ...], ...] = ()
    plain: bool = False

    def clip(self, index: int, plan: Plan) -> tuple[dict[str, Floats], int]:
        """Prepared tensors [T or 1, C, H, W] of the plan's streams, and the label."""
        rng = np.random.default_rng([self.seed, index])
        label = int(rng.integers(10))
        seeds = rng.integers(0, 2**31, 2)
        clip = {}
        if "audio" in plan.streams:
            clip["audio"] = self._spectrogram(label, np.random.default_rng(seeds[0]))
        if "visual" in plan.streams:
            clip["visual"] = self._frames(label, np.random.default_rng(seeds[1]), plan)
        return clip, label

    def _spectrogram(self, label: int, rng: Rng) -> Floats:
        takes = self.digits.words[label]
        if self.synthetic and rng.random() < 0.4:
            takes = self.synthetic[label]
        snr_db = float(rng.uniform(10, 40)) if self.plain else None
        made = record(takes[int(rng.integers(len(takes)))], RATE, rng, snr_db=snr_db)
        heard = prepare_spectrogram(Sound(made.samples[None], RATE), self.audio).tensor
        return heard if self.plain else augmented(heard, rng)

    def _frames(self, label: int, rng: Rng, plan: Plan) -> Floats:
        images = self.digits.pictures[label]
        digit = images[int(rng.integers(len(images)))]
        heights = SMALL if not self.plain and rng.random() < 0.3 * plan.hardness else HEIGHTS
        scene = draw_scene(digit, rng, heights=heights, hardness=plan.hardness)
        shots = _filmed(scene, rng, plan.steps)
        seen = prepare_frames(
            Pictures(tuple(shots), tuple(range(len(shots)))), self.visual, plan.steps
        )
        grain = 0.04 if self.plain else plan.hardness * _grain_level(rng)
        return _grainy(seen.tensor, plan.steps, grain, rng)


class Batches(Dataset[tuple[dict[str, Tensor], Tensor]]):
    """Batch i, by stream [T, B, C, H, W] with a still spectrogram expanded, and labels [B]."""

    def __init__(self, scenes: Scenes, size: int, plan: Callable[[int], Plan]) -> None:
        self.scenes = scenes
        self.size = size
        self.plan = plan

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        plan = self.plan(index)
        first = index * self.size
        clips = [self.scenes.clip(i, plan) for i in range(first, first + self.size)]
        inputs = {
            name: torch.from_numpy(np.stack([clip[name] for clip, _ in clips], axis=1))
            for name in plan.streams
        }
        return inputs, torch.tensor([label for _, label in clips])


def _filmed(scene: Scene, rng: Rng, steps: int) -> list[Bytes]:
    """One frame of a still scene; `steps` where the digit moves or is still being written."""
    kind = rng.random()
    if kind < 0.75:
        return [scene.frame()]
    if kind < 0.88:
        drift = rng.uniform(-0.04, 0.04, 2) * scene.paper.shape[0]
        return [scene.frame(shift=(float(drift[0] * i), float(drift[1] * i))) for i in range(steps)]
    done = np.arange(1, steps + 1) / steps
    written = np.minimum(done * rng.uniform(1, 3) + rng.uniform(0, 0.5), 1)
    return [scene.frame(shown=float(share)) for share in written]


def _grain_level(rng: Rng) -> float:
    """Deviation of the noise over the ink's strength: none, little, or much."""
    kind = rng.random()
    return 0.0 if kind < 0.4 else float(rng.uniform(0, 0.1 if kind < 0.8 else 0.35))


def _grainy(tensor: Floats, steps: int, sigma: float, rng: Rng) -> Floats:
    """[T or 1, 1, H, W] to [T, 1, H, W] with noise of deviation `sigma` (the ink is 1), another on
    every frame; none on the padding. As in a picture, the noise of three colours competes with
    the ink for the greatest distance from the paper, which is levelled anew."""
    tensor = np.repeat(tensor, steps, 0) if len(tensor) == 1 else tensor
    if not sigma or not tensor.any():  # a blank frame has no ink to set the noise by
        return tensor
    content = np.any(tensor != 0, axis=(0, 1))  # [H, W]
    rows, columns = np.flatnonzero(content.any(1)), np.flatnonzero(content.any(0))
    part = np.s_[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    ink = tensor[part]
    pool, count = _grain(), 3 * ink.size
    first = int(rng.integers(len(pool) - count))
    noise = pool[first : first + count].reshape(3, *ink.shape) * np.float32(sigma)
    noise[0] += ink
    distance = 255 * np.abs(noise).max(axis=0)
    for frame, noisy in zip(tensor[part], distance, strict=True):
        frame[0] = normalize_level(noisy[0])
    return tensor


@lru_cache(maxsize=1)
def _grain() -> Floats:
    """Normal noise to cut from: drawing it anew for every clip took a fifth of the time."""
    return np.random.default_rng(0).standard_normal(1 << 21, np.float32)


def augmented(heard: Floats, rng: Rng) -> Floats:
    """A spectrogram [1, 1, bands, columns] with its bands stretched (another vocal tract), moved
    by a few columns, and bands or columns blanked."""
    bands, columns = heard.shape[2:]
    plane = heard[0, 0]
    if rng.random() < 0.6:
        stretch, shift = rng.uniform(0.86, 1.16), rng.uniform(-3, 3)
        at = np.arange(bands) * stretch + shift
        low = np.clip(np.floor(at).astype(int), 0, bands - 2)
        part = np.clip(at - low, 0, 1).astype(np.float32)[:, None]
        plane = plane[low] * (1 - part) + plane[low + 1] * part
    plane = np.roll(plane, int(rng.integers(-12, 13)), axis=1)
    if rng.random() < 0.3:
        first = int(rng.integers(0, bands - 8))
        plane[first : first + int(rng.integers(1, 9))] = plane.min()
    if rng.random() < 0.3:
        first = int(rng.integers(0, columns - 14))
        plane[:, first : first + int(rng.integers(1, 15))] = plane.min()
    return np.ascontiguousarray(plane, np.float32)[None, None]
