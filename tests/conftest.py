"""Fixtures of all tests."""

from __future__ import annotations

import gc
import os
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.watchdog import (  # noqa: F401 hooks
    pytest_addoption,
    pytest_configure,
    pytest_runtest_protocol,
    pytest_unconfigure,
)

# Before anything imports Triton, which reads it then: tests of the service may be collected first.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

ROOT = Path(__file__).resolve().parent.parent

# No time limit for an example: on a busy machine any of them may exceed it.
settings.register_profile("scmrl", deadline=None)
settings.load_profile("scmrl")

#: Tests that take one of these start a process with a service in it, or read large data: they are
#: marked slow, and `make quick` leaves them out. Others are marked where they stand.
SLOW_FIXTURES = frozenset({"serve", "service", "shared"})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


_LAST_MODULE = pytest.StashKey[Path]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Free what other modules' tests have left before a test for which warnings are errors: Python
    warns of their open sockets and files when it frees them."""
    is_next_module = item.session.stash.get(_LAST_MODULE, None) != item.path
    item.session.stash[_LAST_MODULE] = item.path
    if is_next_module and any("error" in m.args for m in item.iter_markers("filterwarnings")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of published golden cases and test media that lies beside the clone."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs {folder}, which a clone of the repository alone does not have")
    return folder
