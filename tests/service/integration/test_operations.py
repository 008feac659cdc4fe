"""What is written for operators is what the program has."""

from __future__ import annotations

import re

import httpx

from service.commands.settings import markdown_table
from service.errors import Error
from service.settings import Settings
from tests.conftest import ROOT

PAGE = (ROOT / "docker" / "OPERATIONS.md").read_text()
README = (ROOT / "README.md").read_text()


def test_the_readmes_table_of_settings_is_the_programs() -> None:
    """`scmrl settings --markdown` makes it."""
    assert "\n".join(markdown_table()) in README


def test_the_operations_page_explains_every_error() -> None:
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", PAGE, re.MULTILINE))
    assert rows == {error.type.rsplit(":", 1)[1]: str(error.status) for error in Error}


def test_the_operations_page_names_only_settings_that_there_are() -> None:
    named = set(re.findall(r"SCMRL_([A-Z_]+[A-Z])\b(?!…)", PAGE)) - {"MAX"}
    assert named <= {name.upper() for name in Settings.model_fields}


def test_the_operations_page_explains_every_metric(service: httpx.Client) -> None:
    shown = service.get("/metrics").text
    families = set(re.findall(r"^# TYPE (scmrl_\w+) ", shown, re.MULTILINE))
    assert len(families) > 10
    created = {name for name in families if name.endswith("_created")}
    assert {name for name in families - created if f"`{name}" not in PAGE} == set()
