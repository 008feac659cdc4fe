"""Noise has the signal-to-noise ratio that its name says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from model.media.reader import Clip, Pictures, Sound
from model.training.perturbations import (
    DEGRADATIONS,
    Perturbation,
    blurred_pictures,
    distant_pictures,
    noisy_pictures,
    noisy_sound,
    occluded_pictures,
)


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


def frames_of(perturbation: Perturbation, seed: int = 0) -> list[NDArray[np.uint8]]:
    after = perturbation(clip(), np.random.default_rng(seed)).pictures
    assert after is not None
    return list(after.frames)


def test_an_occlusion_covers_its_share_at_the_same_place_in_all_pictures() -> None:
    pictures = clip().pictures
    assert pictures is not None
    places = set()
    for seed in range(5):
        first, second = frames_of(occluded_pictures(0.3), seed)
        assert np.array_equal(first, second)
        covered = np.any(first != pictures.frames[0], axis=2)
        assert covered.mean() == pytest.approx(0.3, abs=0.02)
        places.add((int(np.argmax(covered.any(1))), int(np.argmax(covered.any(0)))))
    assert len(places) > 1


def test_a_distant_picture_is_small_and_alike_in_all_pictures() -> None:
    first, second = frames_of(distant_pictures(0.35))
    assert first.shape == (240, 320, 3)
    assert np.array_equal(first, second)
    around = np.bincount(first[..., 0].ravel()).argmax()
    assert np.mean(first[..., 0] != around) == pytest.approx(0.35**2, abs=0.01)


def test_a_blur_keeps_the_mean_and_takes_what_is_fine() -> None:
    before = clip().pictures
    assert before is not None
    noisy = Pictures((np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8),), (0.0,))
    after = blurred_pictures(0.06)(replace(clip(), pictures=noisy), np.random.default_rng(0))
    assert after.pictures is not None
    frame = after.pictures.frames[0].astype(float)
    assert frame.mean() == pytest.approx(noisy.frames[0].mean(), abs=1)
    assert frame.std() < 0.1 * noisy.frames[0].std()


@pytest.mark.parametrize("kind", list(DEGRADATIONS))
def test_degradations_leave_a_clip_without_their_stream_alone(kind: str) -> None:
    without = replace(clip(), **{"sound" if kind == "spectrogram" else "pictures": None})
    for perturbation in DEGRADATIONS[kind].values():
        assert perturbation(without, np.random.default_rng(0)) == without
