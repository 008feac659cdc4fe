"""Bars in a terminal, and nothing of them in a file."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import pytest
from rich.console import Console

from model.training import progress
from model.training.progress import progress_bar, track


@pytest.mark.parametrize("is_terminal", [True, False])
def test_bars_are_for_terminals(is_terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=is_terminal, width=80)
    assert list(track(iter("abc"), "clips", 3, console)) == ["a", "b", "c"]
    with progress_bar(console) as bar:
        task = bar.add_task("epoch 1/2", total=1)
        bar.advance(task)
    assert ("clips" in out.getvalue(), "epoch 1/2" in out.getvalue()) == (is_terminal, is_terminal)
    if not is_terminal:
        assert out.getvalue() == ""


def test_no_module_of_the_training_draws_bars_of_its_own() -> None:
    root = Path(progress.__file__).parent
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "rich.progress":
                assert path.name == "progress.py", path
