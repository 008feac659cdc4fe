"""A server whose limits are the defaults."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.service.server.edge import Edge, running_edge


@pytest.fixture(scope="package")
def shared_edge() -> Iterator[Edge]:
    with running_edge() as edge:
        yield edge


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What is logged, down to each request's line."""
    caplog.set_level(logging.INFO)
    return caplog
