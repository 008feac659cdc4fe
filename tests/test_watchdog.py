"""No test outlives its limit, whatever it does with pytest-timeout's exception."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow

BODIES = {
    "catches everything": """
def test_it():
    while True:
        try:
            time.sleep(1)
        except BaseException:
            pass
""",
    "has tasks whose exceptions are results": """
async def forever():
    while True:
        await asyncio.gather(spin(), return_exceptions=True)

async def spin():
    time.sleep(0.05)

def test_it():
    asyncio.run(forever())
""",
    "ends in time": """
def test_it():
    pass
""",
}


@pytest.mark.parametrize("body", BODIES)
def test_a_run_ends_soon_after_a_tests_limit(body: str, tmp_path: Path) -> None:
    file = tmp_path / "test_it.py"
    file.write_text(f"import asyncio, time\n{BODIES[body]}")
    command = [
        sys.executable, "-m", "pytest", "-p", "tests.watchdog", "-p", "no:cacheprovider",
        "-o", "timeout_grace=1", "--timeout=1", "--rootdir", tmp_path, file,
    ]  # fmt: skip
    ended = subprocess.run(
        [str(word) for word in command], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    if body == "ends in time":
        assert ended.returncode == 0, ended.stdout + ended.stderr
    else:
        assert ended.returncode == 1
        assert "Timeout (0:00:02)!" in ended.stderr
        assert "test_it" in ended.stderr
