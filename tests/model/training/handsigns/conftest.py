"""A miniature of the handsigns folder, so that training is tested in a clone without the data."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.training.handsigns import folder as data_folder
from model.training.handsigns.folder import ShownDigits
from tests.model.training.handsigns.data_folder import make_folder


@pytest.fixture(scope="session")
def handsigns_folder(tmp_path_factory: pytest.TempPathFactory, avdigits_folder: Path) -> Path:
    """Photographs of ten signs by five signers, and beeps."""
    return make_folder(tmp_path_factory.mktemp("handsigns"), avdigits_folder / "speech")


@pytest.fixture(scope="session")
def parts(handsigns_folder: Path) -> tuple[ShownDigits, ShownDigits]:
    """Digits to train on, and those held out."""
    return data_folder.load(handsigns_folder)
