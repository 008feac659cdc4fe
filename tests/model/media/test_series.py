"""Values over time: CSV and .npz, and what is refused of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.media.series import Series, pack_series, read_series
from model.media.types import Limits, MediaError, TooLarge, UnknownFormat, Unusable
from tests.model.media.events.event_files import npz

TIMES, VALUES = [0.0, 0.5, 2.0], [1.0, -2.0, 0.25]


@pytest.mark.parametrize(
    "data",
    [
        b"0,1\n0.5,-2\n2,0.25\n",
        b"t,force\n0,1\n0.5,-2\n2,0.25",
        b"\xef\xbb\xbftime;N\r\n0;1\r\n0.5;-2\r\n2;0.25\r\n\r\n",
        b"0\t1\n\n0.5\t-2\n2.0\t2.5e-1\n",
        npz(t=np.array(TIMES), force=np.array(VALUES)),
        npz(t=np.array(TIMES, np.float32), anything=np.array(VALUES, np.float16)),
        pack_series(Series(np.array(TIMES), np.array(VALUES, np.float32))),
    ],
)
def test_every_format_gives_the_same_series(data: bytes) -> None:
    series = read_series(data)
    assert series.time_s.tolist() == TIMES
    assert series.values.tolist() == VALUES
    assert (series.values.dtype, series.duration_s) == (np.float32, 2.0)


@pytest.mark.parametrize(
    ("data", "error", "detail"),
    [
        (b"\x89PNG\r\n\x1a\n\xff", UnknownFormat, "neither a CSV"),
        (b"<html></html>", UnknownFormat, "two columns"),
        (b"a,b,c\n1,2,3\n", UnknownFormat, "two columns"),
        (b"", Unusable, "no values"),
        (b"t,force\n", Unusable, "no values"),
        (b"0,1\n0.5,x\n", Unusable, "line 2 is '0.5,x'"),
        (b"0,1\n0.5\n", Unusable, "line 2 is '0.5'"),
        (b"0,1\n0.5,nan\n", Unusable, "value 2 is not a finite number"),
        (b"0,1\ninf,1\n", Unusable, "value 2 is not a finite number"),
        (b"0,1\n2,1\n1,1\n", Unusable, "time 3 (1 s) is before time 2 (2 s)"),
        (b"0,1e300\n", Unusable, "outside float32"),
        (b"0,1\n61,1\n", TooLarge, "at most 60 s are accepted"),
        (b"0,1\n" * 11, TooLarge, "it has 11 values; at most 10"),
        (b"\n" * 99, TooLarge, "at most 10"),
        (npz(t=np.zeros(11), v=np.zeros(11)), TooLarge, "at most 10"),
        (npz(t=np.zeros(2), v=np.zeros(3)), Unusable, "of one length"),
        (npz(t=np.zeros((2, 2)), v=np.zeros((2, 2))), Unusable, "of one length"),
        (npz(t=np.zeros(2)), Unusable, "has the arrays t; needed are t"),
        (npz(t=np.zeros(2), a=np.zeros(2), b=np.zeros(2)), Unusable, "needed are t"),
        (npz(t=np.zeros(2), v=np.array(["a", "b"])), Unusable, "must be numbers"),
        (npz(t=np.zeros(2), v=np.zeros(2))[:60], Unusable, "damaged"),
    ],
)
def test_an_error_has_its_reason(data: bytes, error: type[MediaError], detail: str) -> None:
    with pytest.raises(error) as caught:
        read_series(data, Limits(max_series_values=10))
    assert detail in caught.value.detail


@given(st.binary(max_size=80) | st.text("0123456789.,;-\n\te", max_size=80).map(str.encode))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        series = read_series(data)
    except MediaError:
        return
    assert np.isfinite(series.values).all()
    assert len(series.time_s) == len(series.values) > 0
    assert (np.diff(series.time_s) >= 0).all()
