"""A miniature of the avdigits folder, so that training is tested in a clone without the data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import soundfile
import torch

SPEAKERS = ("george", "jackson", "lucas")


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Training as on a machine of one core.

    Networks as small as those of tests gain nothing by a second thread, and lose much by it where
    other processes need the cores as well: torch's threads wait for each other after each sum.
    """
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def avdigits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 printed pictures and 3 speakers' 4 beeps of each digit."""
    folder = tmp_path_factory.mktemp("avdigits")
    rng = np.random.default_rng(0)
    images = []
    for digit in range(10):
        for _ in range(20):
            image = np.zeros((28, 28), np.uint8)
            at = (int(rng.integers(4, 9)), int(rng.integers(20, 25)))
            cv2.putText(image, str(digit), at, cv2.FONT_HERSHEY_SIMPLEX, 0.75, 255, 2)
            images.append(image)
    labels = np.repeat(np.arange(10, dtype=np.uint8), 20)
    np.savez(folder / "handwriting.npz", images=np.stack(images), labels=labels)
    (folder / "speech").mkdir()
    time = np.arange(3000) / 8000
    for digit in range(10):
        for number, speaker in enumerate(SPEAKERS):
            for take in range(4):
                tone = np.sin(2 * np.pi * (300 + 250 * digit + 10 * number + take) * time)
                path = folder / "speech" / f"{digit}_{speaker}_{take}.wav"
                soundfile.write(path, 0.5 * tone * np.hanning(3000), 8000)
    return folder
