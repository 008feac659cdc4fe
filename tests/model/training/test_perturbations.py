"""Noise has the signal-to-noise ratio that its name says."""

from __future__ import annotations

import numpy as np
import pytest

from model.media.reader import Clip, Pictures, Sound
from model.training.perturbations import noisy_pictures, noisy_sound


def clip(seconds: float = 1.0) -> Clip:
    time = np.arange(round(16_000 * seconds)) / 16_000
    sound = Sound(np.sin(2 * np.pi * 440 * time)[None].astype(np.float32) * 0.2, 16_000)
    grey = np.tile(np.linspace(60, 190, 320), (240, 1)).astype(np.uint8)
    pictures = Pictures((np.repeat(grey[:, :, None], 3, 2),) * 2, (0.0, 0.5))
    return Clip(sound=sound, pictures=pictures, sound_problem=None, pictures_problem=None)


@pytest.mark.parametrize("snr_db", [0, 10])
def test_noise_on_the_sound_has_its_level(snr_db: int) -> None:
    before = clip()
    after = noisy_sound(snr_db)(before, np.random.default_rng(0))
    assert before.sound is not None
    assert after.sound is not None
    noise = after.sound.samples - before.sound.samples
    ratio = np.mean(before.sound.samples**2) / np.mean(noise**2)
    assert 10 * np.log10(ratio) == pytest.approx(snr_db, abs=0.3)


def test_noise_on_the_picture_has_its_level() -> None:
    before = clip()
    after = noisy_pictures(10)(before, np.random.default_rng(0))
    assert before.pictures is not None
    assert after.pictures is not None
    plain = before.pictures.frames[0].astype(float)
    noise = after.pictures.frames[0] - plain
    assert 10 * np.log10(plain.var() / noise.var()) == pytest.approx(10, abs=0.5)
