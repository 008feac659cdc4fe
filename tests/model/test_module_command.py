"""Our modules in processes that the service starts wherever a user is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from model.module_command import module_command
from tests.conftest import ROOT


def test_a_users_model_py_is_not_imported_in_place_of_ours(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("raise SystemExit('the user's')")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = module_command("model.thread_name")
    assert subprocess.run(command, cwd=tmp_path, env=environment, check=False).returncode == 0


def test_every_process_of_ours_is_started_so() -> None:
    files = [f for package in ("model", "service") for f in (ROOT / package).rglob("*.py")]
    with_m = [file.name for file in files if '"-m"' in file.read_text()]
    assert with_m == ["module_command.py"]
