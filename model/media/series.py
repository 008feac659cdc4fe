"""A series of values over time, such as the force on a pen, and its files: CSV and NumPy's .npz."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model.arrays import Float32Array, Float64Array
from model.media.npz import MAGIC, read_arrays
from model.media.types import SLACK_S, Limits, TooLarge, UnknownFormat, Unusable

#: Separators of the two columns of a CSV, and what may precede them.
_SEPARATORS, _BOM = ",;\t", "\ufeff"
#: Longest line of a CSV that is read, in characters.
_MAX_LINE = 256


@dataclass(frozen=True)
class Series:
    """Values over time: `time_s` float64 [n] in seconds, rising; `values` float32 [n], finite."""

    time_s: Float64Array
    values: Float32Array

    @property
    def duration_s(self) -> float:
        """Seconds from the first to the last value."""
        return float(self.time_s[-1] - self.time_s[0]) if len(self.time_s) else 0.0


def read_series(data: bytes, limits: Limits | None = None) -> Series:
    """Read a CSV of two columns, time in seconds and value, or an .npz of `t` in seconds and one
    other array.

    A CSV may begin with a line of names; columns are divided by comma, semicolon or tab. Raises
    MediaError.
    """
    limits = limits or Limits()
    if data.startswith(MAGIC):
        return _read_npz(data, limits)
    return _read_csv(data, limits)


def pack_series(series: Series, name: str = "value") -> bytes:
    """Return a series as a CSV that `read_series` reads, the values to 4 significant digits."""
    rows = zip(series.time_s.tolist(), series.values.tolist(), strict=True)
    return "".join([f"t,{name}\n", *(f"{t:.4f},{v:.4g}\n" for t, v in rows)]).encode()


def make_series(time_s: Float64Array, values: Float64Array, limits: Limits) -> Series:
    """Check times and values [n], of at most `limits.max_series_values`. Raises MediaError."""
    if not len(time_s):
        raise Unusable("it has no values")
    if not np.isfinite(time_s).all() or not np.isfinite(values).all():
        row = int(np.flatnonzero(~(np.isfinite(time_s) & np.isfinite(values)))[0]) + 1
        raise Unusable(f"time or value {row} is not a finite number")
    if (late := np.flatnonzero(np.diff(time_s) < 0)).size:
        row = int(late[0]) + 2
        raise Unusable(
            f"time {row} ({time_s[row - 1]:g} s) is before time {row - 1} ({time_s[row - 2]:g} s); "
            "times must rise"
        )
    seconds = float(time_s[-1] - time_s[0])
    if seconds > limits.max_duration_s + SLACK_S:
        raise TooLarge(
            f"its values last {seconds:g} s; at most {limits.max_duration_s:g} s are accepted "
            "(times are in seconds)",
            limit="max_duration_s",
        )
    if (largest := float(np.abs(values).max())) > float(np.finfo(np.float32).max):
        raise Unusable(f"a value is {largest:g}, which is outside float32")
    return Series(time_s, values.astype(np.float32))


def _read_npz(data: bytes, limits: Limits) -> Series:
    arrays = read_arrays(data, limits.max_series_values, "values")
    others = [name for name in arrays if name != "t"]
    if "t" not in arrays or len(others) != 1:
        raise Unusable(
            f"the archive has the arrays {', '.join(sorted(arrays)) or 'none'}; needed are t (in "
            "seconds) and one of values"
        )
    time_s, values = arrays["t"], arrays[others[0]]
    if time_s.dtype.kind not in "iuf" or values.dtype.kind not in "iuf":
        raise Unusable(f"t and {others[0]} must be numbers; they are {time_s.dtype} and "
                       f"{values.dtype}")  # fmt: skip
    if time_s.ndim != 1 or time_s.shape != values.shape:
        raise Unusable(f"t and {others[0]} must be of one length [n]; they are "
                       f"{list(time_s.shape)} and {list(values.shape)}")  # fmt: skip
    return make_series(time_s.astype(np.float64), values.astype(np.float64), limits)


def _read_csv(data: bytes, limits: Limits) -> Series:
    rows = data.count(b"\n") + data.count(b"\r") + 1
    if rows > 2 * limits.max_series_values + 2:  # both ends of a line are counted
        raise TooLarge(_too_many(rows, limits))
    try:
        lines = data.decode().removeprefix(_BOM).splitlines()
    except UnicodeDecodeError:
        raise UnknownFormat("it is neither a CSV of time and value nor an .npz archive") from None
    filled = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not filled:
        raise Unusable("it has no values")
    if _numbers(filled[0][1]) is None:
        if len(_cells(filled[0][1])) != 2:
            raise UnknownFormat("it is neither a CSV of two columns, time in seconds and value, "
                                "nor an .npz archive")  # fmt: skip
        filled = filled[1:]
    if len(filled) > limits.max_series_values:
        raise TooLarge(_too_many(len(filled), limits))
    pairs = np.empty((len(filled), 2))
    for index, (number, line) in enumerate(filled):
        numbers = _numbers(line)
        if numbers is None:
            raise Unusable(
                f"line {number} is {line.strip()[:40]!r}; expected two numbers, time in seconds "
                "and value, divided by a comma, a semicolon or a tab"
            )
        pairs[index] = numbers
    return make_series(pairs[:, 0].copy(), pairs[:, 1].copy(), limits)


def _cells(line: str) -> list[str]:
    separator = next((character for character in _SEPARATORS if character in line), ",")
    return [cell.strip() for cell in line.split(separator)] if len(line) <= _MAX_LINE else []


def _numbers(line: str) -> tuple[float, float] | None:
    """Return the two numbers of a line; None where it holds something else."""
    cells = _cells(line)
    if len(cells) != 2:
        return None
    try:
        return float(cells[0]), float(cells[1])
    except ValueError:
        return None


def _too_many(count: int, limits: Limits) -> str:
    return f"it has {count} values; at most {limits.max_series_values} are accepted"
