"""A service that asks for a key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from service.app import create_app
from service.settings import Settings
from tests.service.running_server import listening

KEYS = SecretStr("anna:anna-q7Zt4mXv9RkB2wLc8NpY:60")


@pytest.fixture
def keyed() -> Iterator[httpx.Client]:
    """A service with a key of 60 requests a minute, and without a checkpoint."""
    app = create_app(Settings(models=Path("/nowhere"), api_keys=KEYS))
    with listening(app) as client:
        yield client
