"""A miniature of the data of ndigits-events, so that it is tested in a clone without the data."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from model.training.ndigits_events import folder as data_folder
from model.training.ndigits_events.folder import Parts
from tests.model.media.events.event_files import nmnist


def film(digit: int, seed: int) -> bytes:
    """A file of events along a line, whose slope is the digit's, in the format of N-MNIST."""
    rng = np.random.default_rng([digit, seed])
    count = 600
    events = np.zeros(count, [("t", "<u8"), ("x", "<u2"), ("y", "<u2"), ("on", "?")])
    events["t"] = np.sort(rng.integers(0, 300_000, count))
    along = rng.uniform(-12, 12, count)
    angle = np.pi * digit / 10
    events["x"] = np.round(17 + along * np.cos(angle))
    events["y"] = np.round(17 + along * np.sin(angle))
    events["on"] = rng.random(count) < 0.5
    return nmnist(events)


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory, avdigits_folder: Path) -> Path:
    """Six recordings to train on and two to test on of each digit, and beeps."""
    folder = tmp_path_factory.mktemp("ndigits")
    (folder / "nmnist" / "events").mkdir(parents=True)
    with (folder / "nmnist" / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "digit", "split"])
        for digit in range(10):
            for seed in range(8):
                name = f"events/{digit}{seed}.bs2"
                (folder / "nmnist" / name).write_bytes(film(digit, seed))
                rows.writerow([name, digit, "train" if seed < 6 else "test"])
    shutil.copytree(avdigits_folder / "speech", folder / "avdigits" / "speech")
    return folder


@pytest.fixture(scope="session")
def parts(digits_folder: Path) -> Parts:
    """The digits, as they are split."""
    return data_folder.load(digits_folder)
