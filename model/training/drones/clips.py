"""Clips to evaluate on: movies of the data folder, and clips made of views and recordings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from model.training.drones.folder import BACKGROUND, KINDS, LABELS, RATE, Aircraft, Movie, View
from model.training.drones.sound import cut
from model.training.drones.window import Window, draw_clip_window
from model.training.mp4_encoder import Footage, encode
from model.training.speech.recording import Recording as Track
from model.training.task import LabelledClip

#: Parts of the test set: the folder's movies, and clips made of its pictures and sounds.
MOVIES, MADE = "movies", "made of pictures and sounds"
#: Side of the frames in pixels, frames per second, and sample rate of the sound in Hz.
_SIDE, _FRAME_RATE, _RATE = 256, 30, 44_100


@dataclass(frozen=True)
class EvaluationClips:
    """Clips of one part of the data: the movies, and then clips that are made."""

    aircraft: Aircraft
    movies: tuple[Movie, ...]
    seed: int

    def take(self, count: int) -> Iterator[LabelledClip]:
        """Yield `count` clips. Of those made, classes and their clips of origin take turns; one
        of them depends only on the seed and its number."""
        for movie in self.movies[:count]:
            yield LabelledClip(movie.data, KINDS[movie.kind], name=movie.name, part=MOVIES)
        for index in range(count - len(self.movies)):
            yield self._make(index)

    def _make(self, index: int) -> LabelledClip:
        label, turn = index % len(LABELS), index // len(LABELS)
        rng = np.random.default_rng([self.seed, index])
        clips = [clip for clip in self.aircraft.clips if KINDS[clip[0].kind] == label]
        # Objects only: with nothing in the picture, `other` would be too easy.
        clips = [clip for clip in clips if clip[0].kind != BACKGROUND] or clips
        views = clips[turn % len(clips)]
        recordings = [
            recording for recording in self.aircraft.recordings if KINDS[recording.kind] == label
        ]
        samples = cut(recordings[turn % len(recordings)], rng)
        window = draw_clip_window(rng, views[0].box is not None)
        footage = _film(views, window, len(samples) / RATE)
        sound = Track(samples, RATE, 0.0, len(samples) / RATE)
        return LabelledClip(
            encode(footage, sound, _RATE), label, box=_box(views, window), size=(_SIDE, _SIDE),
            begin=sound.begin, end=sound.end, name=views[0].clip, part=MADE,
        )  # fmt: skip


def _film(views: tuple[View, ...], window: Window, seconds: float) -> Footage:
    """Show each view for as long, in the order of time."""
    count = max(len(views), round(seconds * _FRAME_RATE))
    frames = [window.cut(view, _SIDE) for view in views]
    return Footage(tuple(frames[i * len(views) // count] for i in range(count)), _FRAME_RATE)


def _box(views: tuple[View, ...], window: Window) -> tuple[float, float, float, float] | None:
    """Return the object's box (left, top, right, bottom) in the middle frame."""
    box = views[len(views) // 2].box
    if box is None:
        return None
    scale = _SIDE / (window.side * max(box[2:]))
    across, down = box[2] * scale / 2, box[3] * scale / 2
    x, y = (_SIDE * (0.5 - offset) for offset in window.offset)
    return x - across, y - down, x + across, y + down
