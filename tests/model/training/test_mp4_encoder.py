"""Encoded clips are read back with their pictures, sound and length."""

from __future__ import annotations

import numpy as np
import pytest

from model.media.reader import read_clip
from model.training.mp4_encoder import RATES, Footage, encode
from model.training.speech.recording import Recording


@pytest.mark.parametrize("rate", RATES)
def test_an_encoded_clip_is_read_back(rate: int) -> None:
    red, blue = (
        np.full((60, 80, 3), colour, np.uint8) for colour in ((200, 20, 20), (20, 20, 200))
    )
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(8000) / 8000).astype(np.float32)
    data = encode(Footage((red,) * 5 + (blue,) * 5, 10), Recording(tone, 8000, 0, 1), rate)
    clip = read_clip(data, 2)
    assert clip.pictures is not None
    assert clip.sound is not None
    first, last = clip.pictures.frames
    assert np.abs(first.reshape(-1, 3).mean(0) - red[0, 0]).max() < 15
    assert np.abs(last.reshape(-1, 3).mean(0) - blue[0, 0]).max() < 15
    samples = clip.sound.samples.mean(0)
    assert clip.sound.sample_rate == rate
    assert 1 <= len(samples) / rate < 1 + 2 * 1024 / rate  # AAC has frames of 1024 samples
    assert np.sum(samples**2) / rate == pytest.approx(0.125, rel=0.1)
