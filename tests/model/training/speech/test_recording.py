"""Noise in recordings of words has the requested level."""

from __future__ import annotations

import numpy as np
import pytest

from model.training.speech.recording import record


@pytest.mark.parametrize("snr_db", [0.0, 20.0])
def test_noise_has_the_level_that_was_asked_for(snr_db: float) -> None:
    rng = np.random.default_rng(0)
    word = np.sin(np.arange(4000) / 3).astype(np.float32)
    recording = record(word, 8000, rng, seconds=(3.0, 3.0), snr_db=snr_db)
    begin, end = round(recording.begin * recording.rate), round(recording.end * recording.rate)
    quiet = np.concatenate([recording.samples[: max(0, begin - 10)], recording.samples[end + 10 :]])
    noise, both = np.mean(quiet**2), np.mean(recording.samples[begin:end] ** 2)
    assert 10 * np.log10((both - noise) / noise) == pytest.approx(snr_db, abs=1.0)
