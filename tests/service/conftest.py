"""Checkpoints with random weights, and a service that serves them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import ROOT
from tests.service import checkpoints
from tests.service.process import Serve
from tests.service.running_server import running

CLIPS = ROOT / "tests" / "data" / "clips"


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two checkpoints: `avdigits`, and `strict`, which needs both of its streams."""
    folder = tmp_path_factory.mktemp("weights")
    checkpoints.save(folder / "avdigits")
    checkpoints.save(folder / "strict", seed=1, name="strict", missing_streams=False)
    return folder


@pytest.fixture(scope="session")
def service(weights: Path) -> Iterator[httpx.Client]:
    """A client of a running service with all settings at their defaults."""
    with running(weights) as client:
        yield client


@pytest.fixture(scope="session")
def clip() -> bytes:
    """A digit that is drawn and spoken, mp4."""
    return (CLIPS / "digit-7.mp4").read_bytes()


@pytest.fixture
def serve() -> Iterator[type[Serve]]:
    """Starts services; none outlives its test."""
    started: list[Serve] = []

    class TrackedServe(Serve):
        def __init__(self, *arguments: object, **settings: str) -> None:
            super().__init__(*arguments, **settings)
            started.append(self)

    yield TrackedServe
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.code()
