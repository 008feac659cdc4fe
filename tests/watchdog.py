"""End a test run in which a test does not end at its timeout.

pytest-timeout raises an exception in the test, once. Hypothesis treats it as a further failure and
continues to shrink, `asyncio.gather(return_exceptions=True)` returns it as a result, and in the
callback of a weak reference it is ignored. After a grace time, faulthandler prints the stacks of
all threads and ends the process.
"""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Generator

import pytest

_STDERR = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    help_text = "Seconds that a test may be past its timeout until the whole run is ended."
    parser.addini("timeout_grace", help_text, default="60")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_STDERR] = os.dup(2)  # before it is captured


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[_STDERR])
    del config.stash[_STDERR]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool | None, bool | None]:
    config = item.config
    marker = item.get_closest_marker("timeout")
    limit = float(
        (marker.args[0] if marker and marker.args else None)
        or config.getoption("timeout", None)
        or config.getini("timeout")
        or 0
    )
    if not limit:
        return (yield)
    after = limit + float(config.getini("timeout_grace"))
    faulthandler.dump_traceback_later(after, exit=True, file=config.stash[_STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()
