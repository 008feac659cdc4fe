"""Figures are drawn whatever the classes are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.training.plots import confusion


@pytest.mark.filterwarnings("error")  # as of a figure without room for its axes
def test_names_of_classes_are_no_formulas(tmp_path: Path) -> None:
    labels = ["$5_$", r"$\frac$", "a\nb", "x" * 100]
    confusion(np.arange(4), np.arange(4), labels, tmp_path / "confusion.png")
    assert (tmp_path / "confusion.png").stat().st_size > 1000
