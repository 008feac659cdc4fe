"""The simulated cochlea: channels by frequency, rates by level, and silence."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from model.media.types import Sound
from model.preprocess.cochlea import BANDS, HIGHEST_HZ, LOWEST_HZ, MAX_EVENTS_HZ, sound_to_events

RATE = 16_000


def tone(hertz: float, seconds: float = 0.5, pause: float = 0.3) -> NDArray[np.float32]:
    """A tone in the middle of silence."""
    time = np.arange(round(seconds * RATE)) / RATE
    silence = np.zeros(round(pause * RATE))
    return np.concatenate([silence, np.sin(2 * np.pi * hertz * time), silence]).astype(np.float32)


def events_of(samples: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    events = sound_to_events(Sound(samples[None], RATE))
    return events.channel, events.time_us


def test_a_tone_is_heard_by_the_channel_of_its_frequency() -> None:
    loudest = []
    for hertz in (LOWEST_HZ, 500, 1000, 2000, HIGHEST_HZ):
        channel, time_us = events_of(tone(hertz))
        loudest.append(int(np.bincount(channel, minlength=BANDS).argmax()))
        assert time_us[0] > 250_000
        assert time_us[-1] < 900_000
    assert loudest[0] == 0
    assert loudest[-1] == BANDS - 1
    assert loudest == sorted(loudest)
    assert len(set(loudest)) == 5


def test_a_channel_fires_at_most_so_often() -> None:
    channel, _ = events_of(tone(1000))
    most = np.bincount(channel).max()
    assert 0.8 * MAX_EVENTS_HZ * 0.5 < most <= MAX_EVENTS_HZ * 0.6


def test_the_level_of_the_sound_does_not_matter() -> None:
    loud, quiet = events_of(tone(700)), events_of(tone(700) * np.float32(0.01))
    assert abs(len(loud[0]) - len(quiet[0])) <= 2


def test_a_sweep_excites_one_channel_after_the_other() -> None:
    time = np.arange(RATE) / RATE
    sweep = np.sin(2 * np.pi * (200 * time + 1400 * time**2)).astype(np.float32)
    channel, time_us = events_of(sweep)
    assert (np.diff(time_us) >= 0).all()
    first, last = (channel[part].mean() for part in (time_us < 200_000, time_us > 800_000))
    assert first + 10 < last


@pytest.mark.parametrize("samples", [np.zeros(4000), np.zeros(1), np.zeros(0)])
def test_silence_has_no_events(samples: NDArray[np.float64]) -> None:
    channel, time_us = events_of(samples.astype(np.float32))
    assert len(channel) == len(time_us) == 0
