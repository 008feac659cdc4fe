"""The switch interval of Python's lock is short."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from service.runtime import switch_interval


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


def test_the_interval_is_shortened() -> None:
    sys.setswitchinterval(0.005)
    switch_interval.shorten()
    assert sys.getswitchinterval() == pytest.approx(switch_interval.SWITCH_INTERVAL_S)
