"""Buffers keep what a window can reach back to, in order, and count what they drop."""

from __future__ import annotations

import io
import wave
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.streaming.buffers import PictureBuffer, SeriesBuffer, SoundBuffer

MS = 1_000_000
RATE = 1000  # a sample for each millisecond


def samples(buffer: SoundBuffer, begin_ms: int, end_ms: int) -> list[int]:
    data = buffer.wav(begin_ms * MS, end_ms * MS)
    if data is None:
        return []
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getframerate(), file.getsampwidth()) == (RATE, 2)
        return list(np.frombuffer(file.readframes(file.getnframes()), "<i2"))


def selected(buffer: PictureBuffer, begin_ms: int, end_ms: int, count: int = 4) -> list[bytes]:
    return [each.payload for each in buffer.select(begin_ms * MS, end_ms * MS, count)]


def pcm(*values: int) -> bytes:
    return np.array(values, "<i2").tobytes()


def test_pictures_at_the_centres_of_equal_parts() -> None:
    buffer = PictureBuffer(10, 1000)
    for time in range(0, 1000, 100):
        buffer.add(time * MS, str(time).encode())
    assert selected(buffer, 0, 1000) == [b"100", b"300", b"600", b"800"]
    assert selected(buffer, 850, 900, count=3) == [b"900"] * 3
    assert selected(buffer, 910, 990, count=3) == []


def test_old_and_surplus_pictures_leave_and_late_ones_do_not_enter() -> None:
    buffer = PictureBuffer(1.0, 30)
    buffer.add(0, bytes(10))
    buffer.add(1500 * MS, bytes(10))  # the first is too old now, which is no loss
    assert (buffer.oldest_ns, buffer.dropped) == (1500 * MS, 0)
    for time in (1600, 1700, 1800):
        buffer.add(time * MS, bytes(10))
    assert (buffer.oldest_ns, buffer.dropped) == (1600 * MS, 1)  # 40 bytes are too many
    buffer.add(1750 * MS, bytes(10))
    buffer.add(1900 * MS, bytes(31))
    assert (buffer.newest_ns, buffer.dropped) == (1800 * MS, 3)


def test_sound_is_cut_by_time() -> None:
    buffer = SoundBuffer(10, RATE, 1, 1 << 20)
    buffer.add(1000 * MS, pcm(1, 2, 3))
    buffer.add(1003 * MS, pcm(4, 5))
    assert buffer.newest_ns == 1005 * MS
    assert samples(buffer, 1001, 1004) == [2, 3, 4]
    assert samples(buffer, 0, 9999) == [1, 2, 3, 4, 5]
    assert samples(buffer, 0, 1000) == []


def test_jitter_is_no_gap_and_a_gap_is_silence() -> None:
    buffer = SoundBuffer(10, RATE, 1, 1 << 20)
    buffer.add(0, pcm(1, 2))
    buffer.add(40 * MS, pcm(3))  # 38 ms late: the clock's jitter
    assert samples(buffer, 0, 999) == [1, 2, 3]
    buffer.add(200 * MS, pcm(4))
    assert samples(buffer, 0, 999) == [1, 2, 3, *[0] * 197, 4]
    assert buffer.newest_ns == 201 * MS


def test_what_overlaps_is_dropped() -> None:
    buffer = SoundBuffer(10, RATE, 1, 1 << 20)
    buffer.add(0, pcm(*range(300)))
    buffer.add(100 * MS, pcm(*range(100)))
    assert (len(samples(buffer, 0, 999)), buffer.dropped) == (300, 1)
    buffer.add(200 * MS, pcm(*range(1000, 1110)))
    assert samples(buffer, 299, 999) == [299, *range(1100, 1110)]


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(1, 150)), min_size=1, max_size=30))
def test_the_length_is_that_of_the_time_and_bounded(pieces: list[tuple[int, int]]) -> None:
    buffer = SoundBuffer(1.0, RATE, 2, 1 << 20)
    time = 0
    for pause, length in pieces:
        time += pause
        buffer.add(time * MS, bytes(4 * length))
        time += length
    assert buffer.newest_ns - buffer.oldest_ns <= 1000 * MS
    data = buffer.wav(buffer.oldest_ns, buffer.newest_ns)
    assert data is not None
    with wave.open(io.BytesIO(data)) as file:
        assert file.getnframes() == (buffer.newest_ns - buffer.oldest_ns) // MS
    assert buffer.newest_ns >= (time - 80 * len(pieces)) * MS


@pytest.mark.parametrize("buffer", [PictureBuffer(1, 100), SoundBuffer(1, RATE, 1, 1 << 20)])
def test_a_cleared_buffer_takes_any_time(buffer: PictureBuffer | SoundBuffer) -> None:
    buffer.add(10_000 * MS, pcm(1))
    buffer.clear()
    assert buffer.newest_ns == -1
    buffer.add(5 * MS, pcm(2))
    assert buffer.oldest_ns == 5 * MS


def series(buffer: SeriesBuffer, begin_ms: int, end_ms: int) -> dict[float, float]:
    """Values by time in ms from the beginning of the window."""
    data = buffer.npz(begin_ms * MS, end_ms * MS)
    if data is None:
        return {}
    arrays = np.load(io.BytesIO(data))
    times = np.round(1000 * arrays["t"], 3).tolist()
    return dict(zip(times, arrays["value"].tolist(), strict=True))


def values(*numbers: float) -> bytes:
    return np.array(numbers, "<f4").tobytes()


def test_values_are_laid_out_by_their_rate_and_gaps_stay() -> None:
    buffer = SeriesBuffer(10, 100, 1 << 20)
    buffer.add(10**9 * MS, values(1, 2))
    buffer.add((10**9 + 27) * MS, values(3))  # jitter: it belongs at 20
    buffer.add((10**9 + 500) * MS, values(4))
    assert series(buffer, 10**9, 10**9 + 1000) == {0: 1, 10: 2, 20: 3, 500: 4}
    assert series(buffer, 10**9 + 10, 10**9 + 500) == {0: 2, 10: 3}
    buffer.add((10**9 + 300) * MS, values(8, 8))
    assert buffer.dropped == 1
    buffer.add((10**9 + 400) * MS, values(*range(12)))
    assert series(buffer, 10**9 + 500, 10**9 + 900) == {0: 4, 10: 11}
    bounded = SeriesBuffer(10, 100, 40)
    for number in range(100):
        bounded.add(10 * number * MS, values(number))
    assert len(series(bounded, 0, 2000)) <= 12
    bounded.clear()
    assert series(bounded, 0, 2000) == {}


@given(st.lists(st.tuples(st.integers(-150, 300), st.integers(1, 40)), min_size=1, max_size=40))
def test_values_keep_their_time_and_messages_without_a_gap_are_one(
    pieces: list[tuple[int, int]],
) -> None:
    """Each value is its own time in ms, by a clock without jitter."""
    buffer = SeriesBuffer(1.0, RATE, 1 << 20)
    end = 0
    for pause, count in pieces:
        is_jitter = abs(pause) <= 80 or end + pause < 0
        begin = end if is_jitter else end + pause
        buffer.add(begin * MS, values(*range(begin, begin + count)))
        end = max(end, begin + count)
    assert buffer.newest_ns == end * MS
    assert end - 1000 <= buffer.oldest_ns // MS
    kept = series(buffer, 0, end)
    assert all(time == value for time, value in kept.items())
    gaps = sum(after - before > 1 for before, after in pairwise(kept))
    assert len(buffer._runs) == gaps + 1
