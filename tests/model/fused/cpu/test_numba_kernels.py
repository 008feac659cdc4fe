"""Compiled kernels are cached until a file of their folder changes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import model

CALLED = """
from model.fused.cpu.numba_kernels import jit
@jit
def called(x):
    return x + {}
"""
CALLING = """
from called import called
from model.fused.cpu.numba_kernels import jit
@jit
def calling(x):
    return called(x)
print(calling(1), sum(calling.stats.cache_hits.values()))
"""


@pytest.mark.slow
def test_a_kernel_is_compiled_anew_when_one_that_it_calls_has_changed(tmp_path: Path) -> None:
    (tmp_path / "calling.py").write_text(CALLING)
    paths = [str(tmp_path), str(Path(model.__file__).parents[1])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    printed = []
    for number in (1, 1, 2):
        (tmp_path / "called.py").write_text(CALLED.format(number))
        completed = subprocess.run(
            [sys.executable, "calling.py"], cwd=tmp_path, env=environment, capture_output=True,
            text=True, check=True,
        )  # fmt: skip
        printed.append(completed.stdout.strip())
    assert printed == ["2 0", "2 1", "3 0"]
