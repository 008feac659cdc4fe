"""Small clips of two or more classes, for tests: stripes that are seen while a tone is heard."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import soundfile
from numpy.typing import NDArray

from model.training.mp4_encoder import Footage, encode
from model.training.speech.recording import Recording

RATE = 8000


def tone(hertz: float, seconds: float, seed: int = 0) -> NDArray[np.float32]:
    """A tone [n] with a little noise."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return (0.4 * np.sin(2 * np.pi * hertz * time) + 0.01 * noise).astype(np.float32)


def stripes(number: int, seed: int = 0, size: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    """A picture [h, w, 3] of stripes, upright or level, and a little noise."""
    rows, columns = np.indices(size)
    wave = (columns if number % 2 else rows) // (2 + number) % 2
    noise = np.random.default_rng([seed, number]).integers(0, 30, (*size, 3))
    return (wave[:, :, None] * 180 + noise).astype(np.uint8)


def movie(
    file: Path, number: int, seed: int = 0, seconds: float = 0.5, count: int | None = None
) -> Path:
    """An mp4 of class `number`: its tone and, at 8 a second, its stripes; `count` of them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    count = count or max(2, round(seconds * 8))
    frames = tuple(stripes(number, seed + index) for index in range(count))
    recording = Recording(tone(300 + 400 * number, seconds, seed), RATE, 0.0, seconds)
    file.write_bytes(encode(Footage(frames, 8), recording, RATE))
    return file


def sound(file: Path, number: int, seed: int = 0, seconds: float = 0.5) -> Path:
    """A sound file of a class."""
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, tone(300 + 400 * number, seconds, seed), RATE)
    return file


def picture(file: Path, number: int, seed: int = 0) -> Path:
    """A picture of a class."""
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), stripes(number, seed))
    return file


def movies(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 4) -> Path:
    """A folder of `count` movies for each class."""
    for number, label in enumerate(classes):
        for take in range(count):
            movie(folder / label / f"{take}.mp4", number, 10 * take)
    return folder
