"""The client as a distribution of its own, in an environment that has no more than it needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

from uv import find_uv_bin

from tests.conftest import ROOT

FOLDER = ROOT / "service" / "client"
#: Imports the module where nothing else of ours, nor torch, can be imported.
IMPORT = """
import sys
sys.modules.update(dict.fromkeys(("torch", "numpy", "model", "service", "av", "cv2", "fastapi")))
import scmrl_client
client = scmrl_client.Client("http://127.0.0.1:1", retries=scmrl_client.Retries(0))
try:
    client.models()
except scmrl_client.UnreachableError:
    print(scmrl_client.__file__, [name for name in sys.modules if "torch" in name and sys.modules[name]])
"""  # noqa: E501


def run(*command: object, cwd: Path | None = None) -> str:
    words = [str(word) for word in command]
    completed = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return completed.stdout


def test_its_wheel_is_installed_alone_and_needs_no_torch(tmp_path: Path) -> None:
    source, wheels, venv = (tmp_path / name for name in ("source", "wheels", "venv"))
    shutil.copytree(
        FOLDER, source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    )
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(wheels)!r})"
    run(sys.executable, "-c", build, cwd=source)
    (wheel,) = wheels.glob("scmrl_client-*.whl")
    uv = [find_uv_bin(), "--offline", "--quiet", "--no-config"]
    run(*uv, "venv", "--python", sys.executable, venv)
    run(*uv, "pip", "install", "--no-deps", "--no-index", "--python", venv / "bin/python", wheel)
    (packages,) = venv.glob("lib/python*/site-packages")
    assert (packages / "scmrl_client" / "py.typed").exists()
    assert {path.name for path in (packages / "scmrl_client").glob("*.py")} == {
        path.name for path in FOLDER.glob("*.py")
    }
    # The dependencies are this environment's: a line in a .pth file adds a folder of packages.
    paths = {sysconfig.get_path("purelib"), *(path for path in sys.path if "site-packages" in path)}
    (packages / "dependencies.pth").write_text("\n".join(sorted(paths)) + "\n")
    module, torch = run(venv / "bin" / "python", "-I", "-c", IMPORT).split(maxsplit=1)
    assert Path(module).is_relative_to(packages)
    assert torch == "[]\n"


def test_versions_and_bounds_are_those_of_the_service() -> None:
    def project(folder: Path) -> tuple[str, set[str]]:
        table = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        return table["version"], set(table["dependencies"])

    version, dependencies = project(ROOT)
    client_version, client_dependencies = project(FOLDER)
    assert client_version == version

    def names(requirements: set[str]) -> set[str]:
        return {requirement.partition(">")[0] for requirement in requirements}

    assert names(client_dependencies) == {"httpx", "pydantic", "websockets"}
    assert names(client_dependencies) <= names(dependencies)
