"""The clock of an input: which stamps are of a new segment."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from service.streaming.clock import MAX_REORDERED, InputClock

_MS = 1_000_000


def segments(times_ms: Iterable[int], reordered: int = 0) -> list[int]:
    """Return the messages, by number, that begin a segment after the first."""
    clock = InputClock(4.0, reordered)
    begun = []
    for number, time_ms in enumerate(times_ms):
        if clock.begins_segment(time_ms * _MS):
            clock.clear()
            begun.append(number)
        clock.add(time_ms * _MS)
    return begun


@pytest.mark.parametrize(
    ("step_ms", "back_ms", "after"),
    [
        (20, 2000, 25),  # messages of the clock that was put back, before the segment begins
        (100, 2000, 5),
        (1000, 3000, 1),
        (100, 4000, 5),
        (100, 500, None),  # it has caught up before
        (1000, 2000, None),
    ],
)
def test_a_clock_that_is_put_back_begins_one_after_half_a_second(
    step_ms: int, back_ms: int, after: int | None
) -> None:
    before = range(0, 10_000, step_ms)
    put_back = [before[-1] + step_ms - back_ms + n * step_ms for n in range(1000)]
    expected = [] if after is None else [len(before) + after]
    assert segments([*before, *put_back]) == expected


def test_late_messages_among_others_begin_none() -> None:
    newest = range(10_000, 20_000, 100)
    times = [time_ms for n in newest for time_ms in (n, n - 2000 + n // 100 % 7)]
    assert segments(times) == []


def test_a_backlog_that_comes_late_and_in_no_order_begins_none() -> None:
    assert segments([5000, 4900, 4800, 4500, 4700, 4600, 5100]) == []


@pytest.mark.parametrize("step_ms", [20, 200, 400])
def test_pictures_in_the_order_of_decoding_begin_none(step_ms: int) -> None:
    pyramid = (8, 4, 2, 1, 3, 6, 5, 7)
    times = [(8 * group + n) * step_ms for group in range(4) for n in pyramid]
    assert segments(times, MAX_REORDERED) == []


def test_h264_whose_clock_is_put_back_begins_one_after_what_may_be_reordered() -> None:
    put_back = [10_000 + 100 * n for n in range(10)] + [8_000 + 100 * n for n in range(18)]
    assert segments(put_back, MAX_REORDERED) == [10 + MAX_REORDERED]


@pytest.mark.parametrize(("first", "second"), [(0, 4001), (4001, 0)])
def test_a_jump_begins_one_at_once(first: int, second: int) -> None:
    assert segments([first, second]) == [1]
    assert segments([first, second // 2 + first // 2]) == []
