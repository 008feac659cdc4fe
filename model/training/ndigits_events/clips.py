"""Clips to evaluate on: files of events, as people post them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from model.media.events.npz import pack_channels
from model.media.events.reader import read_camera_events, read_channel_events
from model.media.events.types import CameraEvents, ChannelEvents
from model.media.types import Clip
from model.training.ndigits_events.dataset import word_to_events
from model.training.ndigits_events.folder import Digits
from model.training.task import LabelledClip


@dataclass(frozen=True)
class EventClip(LabelledClip):
    """A clip whose `data` are a file for the upload field `events`; `cochlea` is one for
    `audio_events`."""

    cochlea: bytes = b""

    def decode(self, steps: int) -> Clip:
        """Read the events of both files. Raises MediaError."""
        events: dict[str, CameraEvents | ChannelEvents] = {
            "visual": read_camera_events(self.data),
            "audio": read_channel_events(self.cochlea),
        }
        return Clip(None, None, events=events)


def labelled_clips(digits: Digits, count: int, seed: int) -> Iterator[LabelledClip]:
    """Yield `count` clips: the recordings of the camera in turn, each with a random word of its
    digit, and again with other words.

    The digits come in turn; the word depends only on the seed, the turn and the recording.
    """
    rows = [
        (position, label, film)
        for label, films in enumerate(digits.films)
        for position, film in enumerate(films)
    ]
    rows.sort(key=lambda row: row[:2])
    for number in range(count):
        turn, row = divmod(number, len(rows))
        position, label, film = rows[row]
        rng = np.random.default_rng([seed + turn, label, position])
        words = digits.words[label]
        events = word_to_events(words[int(rng.integers(len(words)))], rng, augmented=False)
        yield EventClip(film.data, label, name=film.name, cochlea=pack_channels(events))
