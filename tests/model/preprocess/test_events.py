"""Events become counts in equal time bins, as published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.numpy import load_file

from model.media.events.types import CameraEvents, ChannelEvents
from model.preprocess.events import (
    densest_window,
    divide_time,
    prepare_camera_events,
    prepare_channel_events,
)
from model.preprocess.prepare import prepare
from model.preprocess.profiles import PROFILES
from model.preprocess.specs import ChannelEventSpec, EventFrameSpec

MNIST_DVS = EventFrameSpec(size=(28, 28), sensor=(28, 28), mean=0.1307, std=0.3081)
NTIDIGITS = ChannelEventSpec(bands=64, grid=(8, 8), size=(28, 28))
#: Length of a bin in microseconds.
_BIN = 1000


def camera(counts: NDArray[np.float32], sensor: tuple[int, int] | None = None) -> CameraEvents:
    """Events with these counts [T, 2, H, W], and one after the last full bin."""
    step, polarity, y, x = np.repeat(np.argwhere(counts), counts[counts > 0].astype(int), 0).T
    time_us = np.append(step * _BIN, len(counts) * _BIN)
    on = np.append(polarity, 1) > 0
    return CameraEvents(np.append(x, 0), np.append(y, 0), time_us, on, sensor)


def test_frames_are_the_published_ones(shared: Path) -> None:
    golden = load_file(shared / "golden/preprocessing/events.safetensors")
    counts = golden["mnistdvs_frames"]
    tensor = prepare_camera_events(camera(counts), MNIST_DVS, len(counts)).tensor
    np.testing.assert_allclose(tensor, golden["visual"], atol=1e-5)


def test_channels_are_the_published_ones(shared: Path) -> None:
    golden = load_file(shared / "golden/preprocessing/events.safetensors")
    counts = golden["ntidigits_frames"][:, 0]  # [T, 64]
    step, channel = np.repeat(np.argwhere(counts), counts[counts > 0].astype(int), 0).T
    time_us = np.append(step * _BIN, len(counts) * _BIN)
    events = ChannelEvents(np.append(channel, 0), time_us)
    tensor = prepare_channel_events(events, NTIDIGITS, len(counts)).tensor
    np.testing.assert_allclose(tensor, golden["audio"], atol=1e-5)


def test_bins_are_equal_and_what_follows_the_last_full_one_is_left_out() -> None:
    bins = [slice(0, 2), slice(2, 4), slice(4, 4)]
    assert divide_time(np.array([5, 7, 8, 9, 14, 15]), 3) == bins
    assert divide_time(np.array([4, 4]), 2) == [slice(0, 2), slice(2, 2)]  # all at one time
    assert divide_time(np.array([], np.int64), 2) == [slice(0, 0)] * 2


def test_windows_begin_with_the_first_event_and_end_with_the_last() -> None:
    time_us = 10**15 + np.arange(101)
    assert divide_time(time_us, 3, 0.5) == [slice(0, 51), slice(25, 76), slice(50, 101)]
    assert divide_time(time_us, 1, 0.5) == [slice(25, 76)]
    assert divide_time(time_us, 2, 1.0) == [slice(0, 101)] * 2
    assert divide_time(np.array([4, 4]), 2, 0.1) == [slice(0, 2)] * 2
    assert divide_time(np.array([], np.int64), 2, 0.1) == [slice(0, 0)] * 2


@pytest.mark.parametrize("steps", [1, 2, 7, 16])
def test_counts_of_windows_do_not_depend_on_the_number_of_steps(steps: int) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 34, 4000), rng.integers(0, 34, 4000)
    events = CameraEvents(x, y, np.sort(rng.integers(0, 300_000, 4000)), x > 16)
    spec = EventFrameSpec(size=(34, 34), sensor=(34, 34), share=0.25)
    tensor = prepare_camera_events(events, spec, steps).tensor
    assert tensor.shape == (steps, 2, 34, 34)
    assert tensor.sum((1, 2, 3)) == pytest.approx(np.full(steps, 1000), rel=0.1)
    assert tensor[:, 0, :, 17:].sum() == tensor[:, 1, :, :17].sum() == 0


def test_columns_are_parts_of_the_time_of_a_step() -> None:
    # Channel c has an event each 10 µs, from c x 100 to c x 100 + 90; the last ends the time.
    channel = np.repeat(np.arange(8), 10)
    events = ChannelEvents(np.append(channel, 7), np.arange(0, 810, 10))
    spec = ChannelEventSpec(bands=8, grid=(8, 1), size=(8, 4), share=0.5, columns=4)
    prepared = prepare_channel_events(events, spec, 2)
    for step in (0, 1):
        rows, columns = np.nonzero(prepared.tensor[step, 0] > 1)
        assert rows.tolist() == [4 * step, 4 * step + 1, 4 * step + 2, 4 * step + 3]
        assert columns.tolist() == [0, 1, 2, 3]
    assert (prepared.columns, prepared.column_edges[-1]) == ("share_of_step", 1)


def test_columns_need_a_window_and_a_row_for_each_channel() -> None:
    with pytest.raises(ValidationError, match="need a `share`"):
        ChannelEventSpec(bands=8, grid=(8, 1), size=(8, 8), columns=8)
    with pytest.raises(ValidationError, match="must be \\(8, 1\\) with `columns`"):
        ChannelEventSpec(bands=8, grid=(4, 2), size=(8, 8), columns=8, share=0.5)


@pytest.mark.parametrize("sensor", [(56, 84), (280, 14), (28, 28)])
def test_other_sensors_are_scaled_and_no_event_is_lost(sensor: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, sensor[1], 1000), rng.integers(0, sensor[0], 1000)
    time_us = np.append(np.arange(999), 999)
    events = CameraEvents(x, y, time_us, rng.random(1000) < 0.5, sensor)
    spec = EventFrameSpec(size=(28, 28), sensor=(34, 34))
    prepared = prepare_camera_events(events, spec, 1)
    assert prepared.tensor.sum() == 999  # all but the last, which ends the last full bin
    assert (prepared.row_edges[-1], prepared.column_edges[-1]) == sensor
    assert prepared.canvas().shape == (*sensor, 3)
    x[0], y[0] = sensor[1] - 1, sensor[0] - 1
    cell = (y[0] * 28 // sensor[0], x[0] * 28 // sensor[1])
    only = CameraEvents(x[:2], y[:2], time_us[:2], np.array([True, False]), sensor)
    assert np.argwhere(prepare_camera_events(only, spec, 1).tensor).tolist() == [[0, 1, *cell]]


def test_a_silent_file_has_the_sensor_of_the_card_or_a_larger_one() -> None:
    time, on = np.array([0, 9]), np.array([True, True])
    spec = EventFrameSpec(size=(28, 28), sensor=(34, 40))
    small = CameraEvents(np.array([3, 3]), np.array([2, 2]), time, on)
    assert prepare_camera_events(small, spec, 1).column_edges[-1] == 40
    large = CameraEvents(np.array([345, 3]), np.array([2, 2]), time, on)
    assert prepare_camera_events(large, spec, 1).column_edges[-1] == 346


def test_hot_pixels_are_left_out() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 28, 2000), rng.integers(0, 28, 2000)
    x[:800], y[:800] = 5, 6
    events = CameraEvents(x, y, np.arange(2000), x % 2 == 0, (28, 28))
    tensor = prepare_camera_events(events, EventFrameSpec(size=(28, 28), hot_pixels=20), 1).tensor
    assert tensor[:, :, 6, 5].sum() == 0
    assert 1100 < tensor.sum() <= 1200
    assert (
        prepare_camera_events(events, EventFrameSpec(size=(28, 28)), 1).tensor[:, :, 6, 5].sum()
        >= 800
    )


def test_the_grid_has_a_cell_for_each_band() -> None:
    with pytest.raises(ValidationError, match="one for each band"):
        ChannelEventSpec(bands=64, grid=(8, 9), size=(28, 28))


def test_of_a_larger_sensor_the_window_with_most_events_is_kept() -> None:
    rng = np.random.default_rng(0)
    x = np.append(50 + rng.integers(0, 24, 2000), rng.integers(0, 128, 40))
    y = np.append(40 + rng.integers(0, 20, 2000), rng.integers(0, 128, 40))
    x[:4], y[:4] = (50, 73, 50, 73), (40, 40, 59, 59)  # so that the digit fills 24 x 20
    events = CameraEvents(x, y, np.arange(2040), rng.random(2040) < 0.5, (128, 128))
    spec = EventFrameSpec(size=(28, 28), window=(28, 28))
    prepared = prepare_camera_events(events, spec, 1)
    top, left = int(prepared.row_edges[0]), int(prepared.column_edges[0])
    assert 32 <= top <= 40
    assert 46 <= left <= 50
    assert (prepared.row_edges[-1], prepared.column_edges[-1]) == (top + 28, left + 28)
    assert prepared.canvas().shape == (128, 128, 3)
    inside = (x >= left) & (x < left + 28) & (y >= top) & (y < top + 28)
    inside[-1] = False  # it ends the last full bin
    expected = np.zeros((28, 28), int)
    np.add.at(expected, (y[inside] - top, x[inside] - left), 1)
    assert np.array_equal(prepared.tensor[0].sum(0), expected)


def test_a_window_is_in_the_middle_of_what_it_can_contain() -> None:
    assert densest_window(np.array([40]), np.array([3]), 28, 28) == (1, 26)  # 0 to 3, 13 to 40
    assert densest_window(np.array([], int), np.array([], int), 28, 28) == (0, 0)


def test_a_sensor_of_the_windows_size_is_kept_whole() -> None:
    events = CameraEvents(np.array([0, 1]), np.array([27, 1]), np.array([0, 9]),
                          np.array([True, True]), (28, 28))  # fmt: skip
    spec = PROFILES["mnistdvs_ntidigits"]["visual"]
    assert isinstance(spec, EventFrameSpec)
    assert prepare_camera_events(events, spec, 1).row_edges[0] == 0


def test_streams_of_events_are_prepared_by_their_names() -> None:
    specs = PROFILES["mnistdvs_ntidigits"]
    camera_event = CameraEvents(np.array([1]), np.array([1]), np.array([1]), np.array([True]))
    events = {"visual": camera_event, "audio": ChannelEvents(np.array([5]), np.array([7]))}
    prepared = prepare(specs, None, None, 16, events)
    assert {name: each.tensor.shape for name, each in prepared.items()} == {
        "audio": (16, 1, 28, 28), "visual": (16, 2, 28, 28),
    }  # fmt: skip
    assert prepare(specs, None, None, 16, {"visual": camera_event}).keys() == {"visual"}
    assert prepare(specs, None, None, 16) == {}
