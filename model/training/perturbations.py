"""Perturbations of decoded clips: white noise on the sound or on the pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

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

    def perturb(clip: Clip, rng: np.random.Generator) -> Clip:
        if clip.pictures is None:
            return clip
        frames = []
        for frame in clip.pictures.frames:  # uint8 [h, w, 3]
            sigma = frame.std() * 10 ** (-snr_db / 20)
            noise = rng.standard_normal(frame.shape, np.float32) * sigma
            frames.append(np.clip(frame + noise, 0, 255).astype(np.uint8))
        return replace(clip, pictures=Pictures(tuple(frames), clip.pictures.times_s))

    return perturb


#: The noise for streams of each kind of preprocessing (`Spec.kind`), by signal-to-noise ratio in
#: dB. Streams of another kind have no noise measured.
NOISE: dict[str, Callable[[float], Perturbation]] = {
    "spectrogram": noisy_sound,
    "frames": noisy_pictures,
}
