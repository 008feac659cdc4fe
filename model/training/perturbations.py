"""Perturbations of decoded clips: noise on the sound; noise, blur, occlusion or distance in the
pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from model.arrays import UInt8Array
from model.media.types import Clip, Pictures, Sound

#: Change a decoded clip before it is preprocessed, with randomness of the generator alone.
Perturbation = Callable[[Clip, np.random.Generator], Clip]


def noisy_sound(snr_db: float) -> Perturbation:
    """Return a perturbation that adds white noise to the sound.

    Its power is that of the loudest half second less `snr_db`.
    """

    def perturb(clip: Clip, rng: np.random.Generator) -> Clip:
        if clip.sound is None:
            return clip
        samples = clip.sound.samples  # [channels, n]
        window = max(1, min(samples.shape[1], clip.sound.sample_rate // 2))
        energy = np.cumsum(np.pad(samples.mean(0).astype(np.float64) ** 2, (1, 0)))
        power = (energy[window:] - energy[:-window]).max() / window
        sigma = np.sqrt(power * 10 ** (-snr_db / 10))
        noise = rng.standard_normal(samples.shape) * sigma
        noisy = Sound((samples + noise).astype(np.float32), clip.sound.sample_rate)
        return replace(clip, sound=noisy)

    return perturb


def noisy_pictures(snr_db: float) -> Perturbation:
    """Return a perturbation that adds white noise to every pixel of the pictures.

    Its power is each picture's variance less `snr_db`; the sum is clipped to 0 to 255.
    """

    def perturb(frame: UInt8Array, rng: np.random.Generator) -> UInt8Array:
        sigma = frame.std() * 10 ** (-snr_db / 20)
        noise = rng.standard_normal(frame.shape, np.float32) * sigma
        return np.asarray(np.clip(frame + noise, 0, 255), np.uint8)

    return _of_frames(perturb)


def blurred_pictures(share: float) -> Perturbation:
    """Return a perturbation that blurs the pictures by a Gaussian, whose standard deviation is this
    share of their shorter side."""

    def perturb(frame: UInt8Array, _: np.random.Generator) -> UInt8Array:
        sigma = share * min(frame.shape[:2])
        return np.asarray(cv2.GaussianBlur(frame, (0, 0), sigma), np.uint8)

    return _of_frames(perturb)


def occluded_pictures(share: float) -> Perturbation:
    """Return a perturbation that covers this share of the pictures by a rectangle of their
    proportions and of one grey, at a random place, the same in all pictures of a clip."""

    def perturb(frame: UInt8Array, rng: np.random.Generator) -> UInt8Array:
        height, width = (round(side * share**0.5) for side in frame.shape[:2])
        top = int(rng.integers(0, frame.shape[0] - height + 1))
        left = int(rng.integers(0, frame.shape[1] - width + 1))
        covered = frame.copy()
        covered[top : top + height, left : left + width] = rng.integers(0, 256)
        return covered

    return _of_frames(perturb, alike=True)


def distant_pictures(share: float) -> Perturbation:
    """Return a perturbation that shrinks the pictures to this share of their sides, at a random
    place on their median colour, the same in all pictures of a clip."""

    def perturb(frame: UInt8Array, rng: np.random.Generator) -> UInt8Array:
        height, width = (max(1, round(side * share)) for side in frame.shape[:2])
        top = int(rng.integers(0, frame.shape[0] - height + 1))
        left = int(rng.integers(0, frame.shape[1] - width + 1))
        around = np.empty_like(frame)
        around[:] = np.median(frame, axis=(0, 1))
        small = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        around[top : top + height, left : left + width] = small
        return around

    return _of_frames(perturb, alike=True)


def _of_frames(
    change: Callable[[UInt8Array, np.random.Generator], UInt8Array], *, alike: bool = False
) -> Perturbation:
    """Return the perturbation that changes each frame, uint8 [h, w, 3]; with `alike`, each with the
    same randomness."""

    def perturb(clip: Clip, rng: np.random.Generator) -> Clip:
        if clip.pictures is None:
            return clip
        seed = int(rng.integers(2**31)) if alike else None
        frames = [
            change(frame, rng if seed is None else np.random.default_rng(seed))
            for frame in clip.pictures.frames
        ]
        return replace(clip, pictures=Pictures(tuple(frames), clip.pictures.times_s))

    return perturb


#: The noise for streams of each kind of preprocessing (`Spec.kind`), by signal-to-noise ratio in
#: dB. Streams of another kind have no noise measured.
NOISE: dict[str, Callable[[float], Perturbation]] = {
    "spectrogram": noisy_sound,
    "frames": noisy_pictures,
}

#: Strong degradations of streams of each kind, by name: those of a study, where the other stream is
#: needed.
DEGRADATIONS: dict[str, dict[str, Perturbation]] = {
    "spectrogram": {"noise at -10 dB": noisy_sound(-10)},
    "frames": {
        "noise at -10 dB": noisy_pictures(-10),
        "blurred": blurred_pictures(0.06),
        "30 % occluded": occluded_pictures(0.3),
        "far away (35 %)": distant_pictures(0.35),
    },
}
