"""What documents and scripts say about make is in the Makefile, and the workflow is well-formed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "docker/*", ".ci/*", ".github/workflows/*")
    for path in ROOT.glob(pattern)
    if path.is_file()
)


def targets() -> set[str]:
    """What the Makefile says that it makes, without files."""
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^\.PHONY:(.*)$", text, re.MULTILINE)
    return set(line.split())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_target_that_is_named_exists(path: Path) -> None:
    named = re.findall(
        r"(?:`|^\s*(?:run: )?)make ([a-z][a-z0-9-]*)", path.read_text(), re.MULTILINE
    )
    assert set(named) <= targets()


def test_every_target_is_in_the_help_and_has_a_rule() -> None:
    text = (ROOT / "Makefile").read_text()
    for target in targets():
        assert re.search(rf"^{target}:", text, re.MULTILINE), target
        assert target == "help" or re.search(rf'@echo "make {target} ', text), target


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").iterdir()))
def test_workflows_have_the_shape_that_github_reads(path: Path) -> None:
    tool = Path(sys.executable).with_name("check-jsonschema")
    command = [tool, "--builtin-schema", "vendor.github-workflows", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
