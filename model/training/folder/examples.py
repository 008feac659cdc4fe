"""Examples of one's own clips: augmented from the cache to train on, or as they are served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from model.arrays import Float32Array
from model.media.types import MediaError, Pictures, Sound
from model.preprocess.frames import prepare_frames
from model.preprocess.prepare import prepare
from model.preprocess.specs import FrameSpec, Spec, SpectrogramSpec
from model.preprocess.spectrogram import prepare_spectrogram
from model.training.augmentation import (
    augment_sound,
    draw_frames,
    draw_picture_change,
    mask_spectrogram,
)
from model.training.folder.cache import Entry
from model.training.folder.clip_files import ClipFiles
from model.training.task import BatchPlan, DataError


@dataclass(frozen=True)
class CachedExamples:
    """Examples to train on: every clip once, in another order each time, augmented.

    `stills`: whether no clip has more than one picture, which then is not repeated for each step.
    `mirror`: whether pictures may be mirrored. Without `augment`, nothing is changed at random
    but the order.
    """

    entries: Sequence[Entry]
    specs: Mapping[str, Spec]
    seed: int
    stills: bool = False
    augment: bool = True
    mirror: bool = True

    def example(self, index: int, plan: BatchPlan) -> tuple[dict[str, Float32Array], int]:
        """Return tensors [T or 1, C, H, W] of the plan's streams, and the class."""
        entry = self._entry(index)
        strength = plan.difficulty if self.augment else 0.0
        # Each stream has a generator of its own: it is the same whether the other is drawn.
        seeds = np.random.default_rng([self.seed, index]).integers(0, 2**31, 2)
        streams = {}
        for name in plan.streams:
            spec = self.specs[name]
            rng = np.random.default_rng(int(seeds[int(name == "visual")]))
            if isinstance(spec, FrameSpec):
                pictures = entry.pictures()
                assert pictures is not None
                streams[name] = self._frames(pictures, spec, plan.steps, rng, strength)
            elif isinstance(spec, SpectrogramSpec):
                sound = entry.sound()
                assert sound is not None
                streams[name] = _spectrogram(sound, spec, rng, strength)
        return streams, entry.label

    def clip_name(self, index: int) -> str:
        """Return the name of the clip that an example is made of."""
        return self._entry(index).name

    def _entry(self, index: int) -> Entry:
        turn, position = divmod(index, len(self.entries))
        return self.entries[int(turn_order(len(self.entries), self.seed, turn)[position])]

    def _frames(
        self, pictures: Pictures, spec: FrameSpec, steps: int, rng: Generator, strength: float
    ) -> Float32Array:
        frames = draw_frames(pictures.frames, steps, rng, strength)
        if strength > 0:
            change = draw_picture_change(rng, strength, self.mirror)
            frames = [change.apply(frame, rng) for frame in frames]
        times = tuple(float(index) for index in range(len(frames)))
        tensor = prepare_frames(Pictures(tuple(frames), times), spec, steps).tensor
        return tensor if self.stills else _repeat(tensor, steps)


def _spectrogram(
    sound: Sound, spec: SpectrogramSpec, rng: Generator, strength: float
) -> Float32Array:
    if strength > 0:
        samples = augment_sound(sound.samples[0], sound.sample_rate, rng, strength)
        sound = Sound(samples[None], sound.sample_rate)
    tensor = prepare_spectrogram(sound, spec).tensor
    return mask_spectrogram(tensor, rng, strength) if strength > 0 else tensor


def _repeat(tensor: Float32Array, steps: int) -> Float32Array:
    """Repeat a single frame for all steps, so that photographs and movies fit in one batch."""
    return np.repeat(tensor, steps, 0) if len(tensor) == 1 else tensor


@lru_cache(maxsize=4)
def turn_order(count: int, seed: int, turn: int) -> NDArray[np.int64]:
    """Return the random order [count] in which a turn shows the examples, each once."""
    return np.random.default_rng([seed, turn, 2]).permutation(count)


@dataclass(frozen=True)
class ServedExamples:
    """Examples without augmentation: clips decoded and preprocessed exactly as they are served.

    Each comes with its class. `stills` is that of `CachedExamples`.
    """

    clips: Sequence[tuple[ClipFiles, int]]
    specs: Mapping[str, Spec]
    stills: bool = False

    def example(self, index: int, plan: BatchPlan) -> tuple[dict[str, Float32Array], int]:
        """Return tensors [T or 1, C, H, W] of the plan's streams, and the class. Raises DataError
        where the clip cannot be decoded."""
        files, label = self.clips[index % len(self.clips)]
        try:
            clip = files.decode(plan.steps, frozenset(plan.streams))
        except (MediaError, OSError) as exc:
            raise DataError(f"{files.name}: {exc}") from exc
        specs = {name: self.specs[name] for name in plan.streams}
        prepared = prepare(specs, clip.sound, clip.pictures, plan.steps)
        streams = {}
        for name, spec in specs.items():
            tensor = prepared[name].tensor
            is_movie = isinstance(spec, FrameSpec) and not self.stills
            streams[name] = _repeat(tensor, plan.steps) if is_movie else tensor
        return streams, label
