"""Admission: free slots, the rate at which they are released, and lowered time steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Error, Problem
from service.inference import admission as admission_module
from service.inference.admission import Admission, reduce_steps


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(admission_module, "time", clock)
    return clock


def draining(clock: Clock, admission: Admission, seconds: float, inside: int) -> None:
    """Release a slot every `seconds`, while `inside` stay in use."""
    for _ in range(inside + 1):
        admission.acquire()
    for _ in range(10):
        clock.now += seconds
        admission.release()
        admission.acquire()
    admission.release()


def test_a_request_is_refused_while_all_slots_are_in_use() -> None:
    admission = Admission(slots=2, max_wait_s=10, always_admit=2)
    admission.acquire()
    admission.acquire()
    with pytest.raises(Problem) as caught:
        admission.acquire()
    assert caught.value.error is Error.FULL
    assert "2 slots" in caught.value.detail
    assert admission.in_flight == 2
    admission.release()
    admission.acquire()


def test_a_request_that_would_wait_too_long_is_refused_with_the_wait(clock: Clock) -> None:
    admission = Admission(slots=1000, max_wait_s=2, always_admit=4)
    draining(clock, admission, seconds=0.1, inside=10)
    assert admission.estimated_wait_s == pytest.approx(1.0, rel=0.15)
    while admission.estimated_wait_s <= 2:
        admission.acquire()
    assert 20 <= admission.in_flight <= 25
    with pytest.raises(Problem) as caught:
        admission.check()
    assert caught.value.error is Error.FULL
    assert "2 s" in caught.value.detail
    assert caught.value.retry_after_s == pytest.approx(admission.estimated_wait_s)


def test_while_requests_are_refused_admitted_ones_wait_half_as_long(
    clock: Clock,
) -> None:
    admission = Admission(slots=1000, max_wait_s=2, always_admit=4)
    draining(clock, admission, seconds=0.1, inside=10)
    while admission.estimated_wait_s <= 2:
        admission.acquire()
    for _ in range(40):  # a long queue, closed to new requests until it is mostly empty
        with pytest.raises(Problem):
            admission.acquire()
        clock.now += 0.1
        admission.release()
        if admission.estimated_wait_s <= 1:
            break
    assert admission.in_flight == pytest.approx(10, abs=1)
    admission.acquire()
    while admission.estimated_wait_s <= 1:
        admission.acquire()
    with pytest.raises(Problem, match="exceeds 1 s"):
        admission.check()
    clock.now += 1.9
    with pytest.raises(Problem):
        admission.check()
    clock.now += 2.1
    admission.check()


def test_some_requests_are_admitted_however_slow_the_service_is(clock: Clock) -> None:
    admission = Admission(slots=1000, max_wait_s=2, always_admit=16)
    draining(clock, admission, seconds=60, inside=8)
    for _ in range(admission.in_flight, 16):
        admission.acquire()
    with pytest.raises(Problem):
        admission.acquire()


def test_idle_time_does_not_count_as_slow_service(clock: Clock) -> None:
    admission = Admission(slots=1000, max_wait_s=2, always_admit=1)
    draining(clock, admission, seconds=0.01, inside=1)
    admission.release()
    assert admission.in_flight == 0
    clock.now += 3600
    for _ in range(6):
        admission.acquire()
    for _ in range(5):
        clock.now += 0.01
        admission.release()
    assert admission.estimated_wait_s == pytest.approx(0.01, rel=0.3)


def test_pressure_rises_from_none_to_refusal(clock: Clock) -> None:
    admission = Admission(slots=100, max_wait_s=1, always_admit=4)
    assert admission.pressure == 0
    draining(clock, admission, seconds=0.1, inside=5)
    assert admission.pressure == pytest.approx(0.5, abs=0.1)
    while admission.estimated_wait_s <= 1:
        admission.acquire()
    assert admission.pressure == 1


def test_while_requests_are_refused_others_are_admitted_at_full_pressure(clock: Clock) -> None:
    """A service so slow that more requests are always admitted than it can answer in time."""
    admission = Admission(slots=100, max_wait_s=1, always_admit=8)
    draining(clock, admission, seconds=1, inside=6)
    admission.acquire()
    admission.acquire()
    with pytest.raises(Problem):
        admission.check()
    for inside in (7, 6, 5):
        admission.release()
        admission.check()
        assert (admission.in_flight, admission.pressure) == (inside, 1)
    while admission.in_flight > 1:
        admission.release()
    assert admission.pressure < 0.5, "no load, however slow it is"


def test_before_its_rate_is_known_many_at_once_are_pressure_enough_to_lower_time_steps() -> None:
    admission = Admission(slots=100, max_wait_s=1, always_admit=8)
    for _ in range(8):
        admission.acquire()
        assert admission.pressure < 0.5
    admission.acquire()
    assert admission.pressure == 0.5


@pytest.mark.parametrize(
    ("pressure", "run_for"), [(0, 8), (0.49, 8), (0.5, 4), (0.74, 4), (0.75, 2), (1, 2)]
)
def test_time_steps_are_halved_and_then_the_fewest(pressure: float, run_for: int) -> None:
    assert reduce_steps(8, 2, pressure) == run_for
    assert reduce_steps(8, 0, pressure) == 8, "the operator does not allow it"


@given(st.integers(1, 64), st.integers(0, 64), st.floats(0, 1))
def test_time_steps_are_never_raised_nor_below_the_fewest(
    steps: int, least: int, pressure: float
) -> None:
    run_for = reduce_steps(steps, least, pressure)
    assert min(steps, max(least, 1)) <= run_for <= steps
