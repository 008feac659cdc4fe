"""PyAV 18 and 19 called in one way: Python 3.11 has the one, later Pythons the other.

PyAV 19 reads tags with surrogateescape always; PyAV 18 raises on tags that are not UTF-8 unless
it is told how to read them. PyAV 19 has its own rational numbers, with 0/1 for what is not set;
PyAV 18 has `Fraction`, and None. PyAV 18 knows not all kinds of side data that its FFmpeg gives.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type
from av.video.frame import VideoFrame

MAJOR_VERSION = int(av.__version__.split(".")[0])

_TAG_OPTIONS: dict[str, Any] = {"metadata_errors": "surrogateescape"} if MAJOR_VERSION < 19 else {}

#: Bytes that FFmpeg reads at a time: `BoundedInput` looks at the clock as often.
_BUFFER_BYTES = 4096


def open_input(
    file: BinaryIO, *, options: dict[str, str], io_open: Callable[..., Any]
) -> InputContainer:
    """Open a container for reading; its tags may hold any bytes.

    `io_open` is called for each further file that the container names. Raises what `av.open`
    raises: FFmpeg's errors, and builtin ones on some damage.
    """
    container: InputContainer = av.open(
        file, "r", options=options, io_open=io_open, buffer_size=_BUFFER_BYTES, **_TAG_OPTIONS
    )
    return container


def fraction(rational: Any) -> Fraction | None:
    """A rate, a time base or an aspect ratio of PyAV; None where it is not set."""
    if not rational or not rational.denominator:
        return None
    return Fraction(rational.numerator, rational.denominator)


#: Where PyAV tells the angle of a display matrix alone: a, b, c, d by quarter turns anticlockwise.
_TURNS = ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))


def display_matrix(frame: VideoFrame) -> tuple[int, int, int, int] | None:
    """a, b, c, d of a frame's display matrix: (x, y) is shown at (a x + c y, b x + d y).

    None where it has none.
    """
    try:
        sides: Any = frame.side_data  # PyAV's annotations know no key but str
    except ValueError:  # beside a kind that it does not know, such as Exif
        return _TURNS[round(frame.rotation / 90) % 4]
    matrix = sides.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return None
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32, 5).tolist()
    return a, b, c, d
