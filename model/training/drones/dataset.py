"""Training examples of drones: pictures and sounds of one class, which were recorded apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import cast

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from model.arrays import Float32Array, UInt8Array
from model.media.types import Pictures
from model.preprocess.frames import prepare_frames
from model.preprocess.profiles import PROFILES
from model.preprocess.specs import FrameSpec
from model.training.drones.aac_augmentation import with_coded
from model.training.drones.empty_examples import draw_empty_picture, draw_noise
from model.training.drones.folder import BACKGROUND, KINDS, LABELS, Aircraft, Recording, View
from model.training.drones.sound import cut, draw_spectrogram, spectrogram
from model.training.drones.window import (
    DRAWN_SIDE,
    draw_clip_window,
    draw_light,
    draw_window,
    middle_of,
)
from model.training.task import BatchPlan

#: Preprocessing of what is drawn: the middle of a window, as large as in its frame.
VISUAL = cast(FrameSpec, PROFILES["drones"]["visual"]).model_copy(
    update={"resize_shorter": DRAWN_SIDE}
)
#: Share of `other` in training: it is the most varied class. Share of empty backgrounds among its
#: pictures; airplanes and birds are as many.
OTHER, EMPTY = 0.4, 0.2
#: Noises that are drawn for these.
_NOISES = 100
#: Shares of the examples of `other` in training whose picture is an empty page or noise, and whose
#: sound is noise: neither is a drone or a helicopter.
_BLANK, _NOISE = 0.05, 0.15


@dataclass(frozen=True)
class AircraftExamples:
    """An endless sequence of examples; example i depends only on the seed and i.

    `augmented`: apply augmentations for training. Without them, the classes, and the clips and
    recordings of each, are shown in turn. `other` and `empty`: shares of the class `other`, and of
    empty backgrounds among its pictures.
    """

    aircraft: Aircraft
    seed: int
    augmented: bool = True
    other: float = OTHER
    empty: float = EMPTY

    def example(self, index: int, plan: BatchPlan) -> tuple[dict[str, Float32Array], int]:
        """Return tensors [T or 1, C, H, W] of the plan's streams, and the class."""
        rng = np.random.default_rng([self.seed, index])
        label = index % len(LABELS)
        if self.augmented:
            named = (1 - self.other) / (len(LABELS) - 1)
            label = min(int(rng.random() / named), len(LABELS) - 1) if named else len(LABELS) - 1
        # Each stream has its own seed, so that it does not depend on whether the other is drawn.
        seeds = rng.integers(0, 2**31, 2)
        turn = index // len(LABELS)
        streams = {}
        if "audio" in plan.streams:
            rng = np.random.default_rng(seeds[0])
            if self.augmented:
                streams["audio"] = self._training_sound(label, rng, plan)
            else:
                streams["audio"] = self._held_out_sound(label, turn, rng)
        if "visual" in plan.streams:
            rng = np.random.default_rng(seeds[1])
            if self.augmented:
                streams["visual"] = self._training_frames(label, rng, plan)
            else:
                streams["visual"] = self._held_out_frames(label, turn, rng, plan)
        return streams, label

    def _training_sound(self, label: int, rng: Generator, plan: BatchPlan) -> Float32Array:
        if LABELS[label] == "other" and rng.random() < _NOISE * plan.difficulty:
            return spectrogram(self._noises[int(rng.integers(len(self._noises)))])
        recordings = self._coded
        return draw_spectrogram(recordings[label], recordings[-1], rng, plan.difficulty)

    def _held_out_sound(self, label: int, turn: int, rng: Generator) -> Float32Array:
        recordings = self._recordings[label]
        return spectrogram(cut(recordings[turn % len(recordings)], rng))

    def _training_frames(self, label: int, rng: Generator, plan: BatchPlan) -> Float32Array:
        if LABELS[label] == "other" and rng.random() < _BLANK * plan.difficulty:
            return _prepare([draw_empty_picture(rng)], plan.steps)
        clips, shares = self._clips[self._draw_kind(label, rng)]
        views = clips[int(np.searchsorted(shares, rng.random()))]
        window = middle_of(draw_window(rng, views[0].box is not None, plan.difficulty), views[0])
        light = draw_light(rng, plan.difficulty)
        shots = [
            light.apply(window.cut(view, DRAWN_SIDE), rng)
            for view in draw_views(views, plan.steps, rng)
        ]
        return _prepare(shots, plan.steps)

    def _held_out_frames(
        self, label: int, turn: int, rng: Generator, plan: BatchPlan
    ) -> Float32Array:
        clips, _ = self._clips[self._draw_kind(label, rng)]
        views = clips[turn % len(clips)]
        window = middle_of(draw_clip_window(rng, views[0].box is not None), views[0])
        shots = [window.cut(view, DRAWN_SIDE) for view in draw_views(views, plan.steps, rng)]
        return _prepare(shots, plan.steps)

    def _draw_kind(self, label: int, rng: Generator) -> str:
        """Draw what is in a picture of a class: of `other`, one of the kinds that there are."""
        if LABELS[label] != "other":
            return LABELS[label]
        each = (1 - self.empty) / 2
        shares = {"airplane": each, "bird": each, BACKGROUND: self.empty}
        shares = {kind: share for kind, share in shares.items() if self._clips[kind][0]}
        at = rng.random() * sum(shares.values())
        return list(shares)[int(np.searchsorted(np.cumsum(list(shares.values())), at))]

    @cached_property
    def _recordings(self) -> tuple[tuple[Recording, ...], ...]:
        """Recordings by class."""
        return tuple(
            tuple(
                recording
                for recording in self.aircraft.recordings
                if KINDS[recording.kind] == label
            )
            for label in range(len(LABELS))
        )

    @cached_property
    def _coded(self) -> tuple[tuple[Recording, ...], ...]:
        """Recordings by class, as they are and as clips have them."""
        return tuple(with_coded(recordings) for recordings in self._recordings)

    @cached_property
    def _noises(self) -> tuple[Float32Array, ...]:
        """Noises, as they are and as clips have them."""
        rng = np.random.default_rng(self.seed)
        noises = [Recording(draw_noise(rng), BACKGROUND, "") for _ in range(_NOISES)]
        return tuple(recording.samples for recording in with_coded(noises))

    @cached_property
    def _clips(self) -> dict[str, tuple[tuple[tuple[View, ...], ...], NDArray[np.float64]]]:
        """Clips by kind, and the cumulative probability of each."""
        by_kind = {}
        for kind in KINDS:
            clips = tuple(clip for clip in self.aircraft.clips if clip[0].kind == kind)
            # A place with four times as many clips is drawn twice as often.
            count = Counter(clip[0].site for clip in clips)
            weights = np.array([count[clip[0].site] ** -0.5 for clip in clips])
            by_kind[kind] = clips, np.cumsum(weights) / max(weights.sum(), 1e-12)
        return by_kind


def draw_views(views: Sequence[View], count: int, rng: Generator) -> list[View]:
    """Draw views of a clip in their order in time; half the time, one view `count` times."""
    if count == 1 or len(views) == 1 or rng.random() < 0.5:
        return [views[int(rng.integers(len(views)))]]
    return [views[index] for index in sorted(rng.integers(0, len(views), count))]


def _prepare(shots: list[UInt8Array], steps: int) -> Float32Array:
    """Return the tensor [T, C, H, W] of the shots; a single one is repeated, so that still and
    moving ones fit in one batch."""
    pictures = Pictures(tuple(shots), tuple(float(i) for i in range(len(shots))))
    tensor = prepare_frames(pictures, VISUAL, steps).tensor
    return np.repeat(tensor, steps, 0) if len(tensor) == 1 else tensor
