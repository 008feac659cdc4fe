"""The largest batch is the smallest one that is nearly as fast per sample as any."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.inference.batch_choice import SIZES, choose_max_batch, longest_batch_s


def curve(launch_s: float, sample_s: float, sizes: tuple[int, ...] = SIZES) -> dict[int, float]:
    """Return the times of a device that needs `launch_s` for a batch and more for each sample."""
    return {size: launch_s + size * sample_s for size in sizes}


#: Samples per second of an H200 at batches of 1, 8 and 64 (docs/performance.md).
H200 = {1: 1 / 1739, 8: 8 / 10_644, 64: 64 / 23_796}


@pytest.mark.parametrize(
    ("times", "longest_s", "slots", "expected"),
    [
        (H200, 0.5, 128, 64),
        (H200, 0.5, 127, 8),
        (H200, 0.001, 128, 8),
        (curve(0.0, 0.1), 1.0, 128, 1),
        (curve(0.010, 0.010), 10.0, 128, 8),
        (curve(0.100, 0.001), 10.0, 128, 64),
        (curve(0.100, 0.001), 0.12, 128, 16),
        (curve(9.0, 1.0), 0.5, 128, 1),
        ({1: 1.0, 2: 1.0, 4: 4.0, 8: 4.3}, 10.0, 128, 2),
        ({8: 1.0}, 0.5, 2, 8),
    ],
)
def test_the_smallest_size_near_the_best_is_chosen(
    times: Mapping[int, float], longest_s: float, slots: int, expected: int
) -> None:
    assert choose_max_batch(times, longest_s, slots) == expected


def test_without_a_measurement_nothing_is_chosen() -> None:
    assert choose_max_batch({}, 1.0, 128) is None


@given(
    times=st.dictionaries(st.sampled_from(SIZES), st.floats(1e-4, 10.0), min_size=1),
    wait_s=st.floats(0.01, 10.0),
    slots=st.integers(1, 256),
)
def test_the_choice_keeps_its_limits_and_nine_tenths_of_the_best(
    times: dict[int, float], wait_s: float, slots: int
) -> None:
    longest_s = longest_batch_s(wait_s)
    chosen = choose_max_batch(times, longest_s, slots)
    assert chosen is not None
    allowed = [n for n, s in times.items() if s <= wait_s / 4 and n <= slots / 2]
    assert chosen in {*allowed, min(times)}
    assert all(chosen / times[chosen] >= 0.9 * n / times[n] for n in allowed)
