"""The rate limit of one key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.keys.rate_limit import TokenBucket


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_admitted_and_then_requests_at_the_refill_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(6, clock)
    assert [bucket.take() for _ in range(6)] == [0.0] * 6
    assert bucket.take() == pytest.approx(10)
    clock.now += 4
    assert bucket.take() == pytest.approx(6), "a refusal costs nothing"
    clock.now += 6
    assert bucket.take() == 0
    assert bucket.take() == pytest.approx(10)


def test_a_bucket_never_holds_more_than_the_tokens_of_a_minute() -> None:
    clock = Clock()
    bucket = TokenBucket(3, clock)
    clock.now += 86_400
    assert [bucket.take() > 0 for _ in range(4)] == [False, False, False, True]


@given(
    per_minute=st.integers(1, 10_000),
    pauses=st.lists(st.floats(0, 30), min_size=1, max_size=60),
)
def test_a_request_after_the_returned_wait_is_admitted_and_the_limit_holds(
    per_minute: int, pauses: list[float]
) -> None:
    clock = Clock()
    bucket = TokenBucket(per_minute, clock)
    admitted = 0
    for pause in pauses:
        clock.now += pause
        wait = bucket.take()
        assert 0 <= wait <= 60
        if wait:
            clock.now += wait
            assert bucket.take() == 0, f"{wait} s were not enough"
        admitted += 1
    assert admitted <= per_minute * (1 + (clock.now - 1000) / 60) + 1e-3
