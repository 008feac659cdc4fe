"""The files that hosts and tools read: citation, issue forms, hooks, and the version."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from tests.conftest import ROOT

FORMS = ROOT / ".github" / "ISSUE_TEMPLATE"
#: Each file with the schema that check-jsonschema brings for it.
SCHEMAS = {
    ROOT / "CITATION.cff": "vendor.citation-file-format",
    FORMS / "bug.yml": "vendor.github-issue-forms",
    FORMS / "feature.yml": "vendor.github-issue-forms",
    FORMS / "config.yml": "vendor.github-issue-config",
}
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSION: str = PROJECT["version"]


def text(*parts: str) -> str:
    return ROOT.joinpath(*parts).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("path", SCHEMAS, ids=lambda path: path.name)
def test_files_match_their_schema(path: Path) -> None:
    tool = Path(sys.executable).with_name("check-jsonschema")
    command = [tool, "--builtin-schema", SCHEMAS[path], path]
    completed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr


def test_every_issue_form_is_checked() -> None:
    assert set(FORMS.iterdir()) <= SCHEMAS.keys()


def test_hooks_run_the_tools_of_the_virtual_environment() -> None:
    for repository in yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]:
        assert repository["repo"] == "local"
        for hook in repository["hooks"]:
            assert re.match(r"\.venv/bin/(ruff|mypy|python) ?", hook["entry"]), hook["id"]


def test_ci_runs_on_every_python_that_pyproject_allows() -> None:
    workflow = yaml.safe_load(text(".github", "workflows", "ci.yml"))
    job = workflow["jobs"]["run"]
    assert {"run": ".ci/run"} in job["steps"]
    allowed = SpecifierSet(PROJECT["requires-python"])
    pythons = [f"3.{minor}" for minor in range(30) if f"3.{minor}.1" in allowed]
    assert job["strategy"]["matrix"]["python"] == pythons


# --- the version: pyproject.toml has it, and what cannot read that repeats it ----------------


def test_the_program_reads_its_version_from_its_metadata() -> None:
    assert version("scmrl") == VERSION
    sources = [path for top in ("model", "service") for path in (ROOT / top).rglob("*.py")]
    for path in sources:
        assert f'"{VERSION}"' not in path.read_text(), path


def test_files_that_repeat_the_version_have_the_same_one() -> None:
    assert yaml.safe_load(text("CITATION.cff"))["version"] == VERSION
    assert f"image: scmrl:{VERSION}\n" in text("docker", "k8s", "deployment.yaml")
    assert re.search(rf"^## \[{re.escape(VERSION)}\] - \d{{4}}-\d\d-\d\d$", text("CHANGELOG.md"),
                     re.MULTILINE)  # fmt: skip
