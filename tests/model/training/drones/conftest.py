"""A miniature of the drones folder, so that training is tested in a clone without the data."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.training.drones import folder as data_folder
from model.training.drones.folder import Aircraft
from tests.model.training.drones.data_folder import make_folder


@pytest.fixture(scope="session")
def drones_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn objects and tones in five places, one of them of the test split."""
    return make_folder(tmp_path_factory.mktemp("drones"))


@pytest.fixture(scope="session")
def parts(drones_folder: Path) -> tuple[Aircraft, Aircraft]:
    """What to train on, and what to test on."""
    return data_folder.load(drones_folder)
