"""Values over time become a population code."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from model.media.series import Series
from model.preprocess.series import prepare_series
from model.preprocess.specs import SeriesSpec


def series(values: list[float], seconds: float = 1.0) -> Series:
    return Series(np.linspace(0, seconds, len(values)), np.array(values, np.float32))


def spec(**changes: object) -> SeriesSpec:
    fields = {"size": (16, 32), "low": 0.0, "high": 1.0, "width": 1.0, **changes}
    return SeriesSpec.model_validate(fields)


def levels(tensor: np.ndarray) -> np.ndarray:
    """Return the row of the strongest activity in each column."""
    return np.asarray(tensor[0, 0].argmax(0))


def test_each_column_is_most_active_at_the_row_of_its_value() -> None:
    prepared = prepare_series(series([0.0, 1.0]), spec())
    assert prepared.tensor.shape == (1, 1, 16, 32)
    assert prepared.tensor.dtype == np.float32
    np.testing.assert_array_equal(levels(prepared.tensor), np.arange(32) // 2)
    assert prepared.tensor.min() >= 0
    assert prepared.tensor.max() <= 1
    assert (prepared.row_edges[[0, -1]].tolist(), prepared.column_edges[[0, -1]].tolist()) == (
        [0, 1], [0, 1],
    )  # fmt: skip


def test_a_wider_code_has_more_active_rows() -> None:
    narrow, wide = (prepare_series(series([0.5, 0.5]), spec(width=w)).tensor for w in (0.5, 3))
    assert (narrow > 0.1).sum() < (wide > 0.1).sum()


def test_peak_makes_it_independent_of_the_unit() -> None:
    values = [0.0, 0.3, 1.0, 0.2]
    one, other = (
        prepare_series(series([scale * v for v in values]), spec(level="peak")).tensor
        for scale in (1, 64)
    )
    np.testing.assert_array_equal(one, other)
    assert (prepare_series(series([64.0, 64.0]), spec()).tensor[0, 0].argmax(0) == 15).all()


def test_a_duration_leaves_blank_what_is_after_the_last_value() -> None:
    tensor = prepare_series(series([1.0, 1.0], 0.5), spec(duration_s=1.0)).tensor
    assert tensor[..., :16].any(2).all()
    assert not tensor[..., 16:].any()


def test_onset_begins_with_the_first_value_that_counts() -> None:
    values = [0.0] * 50 + [0.2, 0.4, 0.6, 0.8, 1.0] + [0.0] * 45
    prepared = prepare_series(series(values), spec(onset=0.5, duration_s=0.5))
    assert prepared.column_edges[0] == pytest.approx(52 / 99)
    assert levels(prepared.tensor)[0] >= 9


def test_a_single_value_and_zeros_are_no_error() -> None:
    for values in ([0.0], [0.0, 0.0], [0.7]):
        full = spec(level="peak", onset=0.1)
        assert np.isfinite(prepare_series(series(values), full).tensor).all()


def test_low_must_be_below_high() -> None:
    with pytest.raises(ValidationError, match="must be below high"):
        spec(low=1.0)
