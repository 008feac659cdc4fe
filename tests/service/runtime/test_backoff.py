"""Waits before another attempt."""

from __future__ import annotations

from service.runtime.backoff import backoff_s


def test_a_wait_doubles_up_to_the_longest_however_often_it_failed() -> None:
    waits = [backoff_s(failures, 1.0, 30.0) for failures in (1, 2, 3, 5, 6, 7)]
    assert waits == [1, 2, 4, 16, 30, 30]
    assert backoff_s(100_000, 1.0, 30.0) == 30
