"""Media and preprocessing run in decoder processes, which never import torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module({name!r})
for module in pkgutil.walk_packages(package.__path__, {name!r} + "."):
    importlib.import_module(module.name)
print("torch" in sys.modules)
"""


@pytest.mark.parametrize("name", ["model.media", "model.preprocess"])
def test_importing_every_module_of_the_package_leaves_torch_out(name: str) -> None:
    code = IMPORT_ALL.format(name=name)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "False\n"
