"""The wheel, installed in an environment of its own and started in another folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT
from tests.service.process import Serve

pytestmark = pytest.mark.slow

CLIP = (ROOT / "tests" / "data" / "clips" / "digit-7.mp4").read_bytes()
#: What a wheel is built from.
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "model", "service", "weights")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            skipped = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, source / name, ignore=skipped)
        else:
            shutil.copy(ROOT / name, source)
    output = tmp_path_factory.mktemp("wheel")
    build = [
        "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", output, source,
    ]  # fmt: skip
    run(sys.executable, "-m", "pip", *build)
    (path,) = output.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an environment with the wheel, whose dependencies are this environment's.

    A line in a .pth file adds a folder of packages, and does not run the .pth files in it: the
    editable installation of this clone is not to be seen from there.
    """
    venv = tmp_path_factory.mktemp("venv")
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    python = venv / "bin" / "python"
    install = ["install", "--no-deps", "--no-index", "--quiet", wheel]
    run(sys.executable, "-m", "pip", "--python", python, *install)
    (packages,) = venv.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return venv


def run(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_serves_the_embedded_checkpoint_from_another_folder(
    installed: Path, tmp_path: Path
) -> None:
    show = ["-c", "import service; print(service.__file__)"]
    imported = run(installed / "bin" / "python", *show, cwd=tmp_path)
    assert Path(imported.strip()).is_relative_to(installed)
    service = Serve("--port", 0, python=installed / "bin" / "python", cwd=tmp_path)
    try:
        answer = httpx.post(f"{service.address()}/v1/classify", files={"clip": CLIP}, timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.json()["prediction"]["label"] == "7"
        for name in ("", "page/page.js", "page/examples/digit-7.webm"):
            assert httpx.get(f"{service.address()}/{name}").status_code == 200, name
        assert service.stop() == 0
    finally:
        service.process.kill()
        service.code()


def test_the_command_of_the_wheel_verifies_the_embedded_checkpoints(
    installed: Path, tmp_path: Path
) -> None:
    listed = run(installed / "bin" / "scmrl", "models", "--json", cwd=tmp_path)
    shipped = sorted(card.parent.name for card in ROOT.glob("weights/*/card.json"))
    assert sorted(json.loads(line)["name"] for line in listed.splitlines()) == shipped


def test_the_wheel_says_that_its_packages_are_typed(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"model/py.typed", "service/py.typed"} <= set(names)
