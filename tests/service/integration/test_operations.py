"""What is written for operators is what the program has."""

from __future__ import annotations

import re

import httpx

from service.commands.settings import markdown_page
from service.errors import Error
from service.settings import Settings
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "operations.md").read_text()
SETTINGS = (ROOT / "docs" / "settings.md").read_text()


def test_the_page_of_settings_is_the_one_that_the_program_prints() -> None:
    """Run `scmrl settings --markdown > docs/settings.md` where this fails."""
    assert "\n".join(markdown_page()) + "\n" == SETTINGS


def test_the_operations_page_explains_every_error() -> None:
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", PAGE, re.MULTILINE))
    assert rows == {error.type.rsplit(":", 1)[1]: str(error.status) for error in Error}


def test_the_operations_page_names_only_settings_that_there_are() -> None:
    named = set(re.findall(r"SCMRL_([A-Z_]+[A-Z])\b(?!…)", PAGE)) - {"MAX"}
    assert named <= {name.upper() for name in Settings.model_fields}


def test_the_operations_page_explains_every_metric(service: httpx.Client) -> None:
    output = service.get("/metrics").text
    families = set(re.findall(r"^# TYPE (scmrl_\w+) ", output, re.MULTILINE))
    assert len(families) > 10
    created = {name for name in families if name.endswith("_created")}
    assert {name for name in families - created if f"`{name}" not in PAGE} == set()
