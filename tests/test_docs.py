"""The documentation names files, anchors, settings and commands that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from service.renamed_settings import RENAMED
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [
        *ROOT.glob("docs/*.md"),
        *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")),
    ]
)
#: Most lines of the README.
README_LINES = 220

_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.M | re.S)
#: A path in backticks: of this repository where its first folder is.
_PATH = re.compile(r"`((?:\.ci|docker|docs|model|service|tests|weights)/[\w./-]+)`")
_SETTING = re.compile(r"\bSCMRL_[A-Z0-9_]+[A-Z0-9]\b")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", page.read_text())):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=ids)
def test_paths_in_backticks_exist(page: Path) -> None:
    missing = [path for path in _PATH.findall(page.read_text()) if not (ROOT / path).exists()]
    assert not missing


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "CHANGELOG.md"], ids=ids)
def test_settings_exist(page: Path) -> None:
    names = {f"SCMRL_{name.upper()}" for name in Settings.model_fields}
    if page.name == "settings.md":  # it lists the old names too
        names |= {f"SCMRL_{name.upper()}" for name in RENAMED}
    named = {name for name in _SETTING.findall(page.read_text()) if name != "SCMRL_MAX"}
    assert named <= names


def test_the_index_lists_every_page() -> None:
    linked = set(_LINK.findall((ROOT / "docs/README.md").read_text()))
    assert {p.name for p in ROOT.glob("docs/*.md")} - {"README.md"} <= linked


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= README_LINES


def test_the_make_targets_of_the_readme_exist() -> None:
    for target in re.findall(r"\bmake ([a-z][a-z-]+)", (ROOT / "README.md").read_text()):
        subprocess.run(["make", "-n", "-C", ROOT, target], check=True, capture_output=True)
