"""Differences between PyAV 18 (Python 3.11) and PyAV 19 (later Pythons).

PyAV 19 always decodes tags with surrogateescape; PyAV 18 raises on tags that are not UTF-8 unless
`metadata_errors` is passed. Unset rational numbers are 0/1 in PyAV 19 and None in PyAV 18. PyAV 18
raises on some kinds of side data.
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

#: Bytes per read of FFmpeg. `BoundedInput` checks the CPU time at each read.
_BUFFER_BYTES = 4096


def open_input(
    file: BinaryIO, *, options: dict[str, str], io_open: Callable[..., Any]
) -> InputContainer:
    """Open a container for reading, also if its tags are not valid UTF-8.

    `io_open` is called for each further file that the container refers to. Raises what `av.open`
    raises: FFmpeg's errors, and builtin ones for some damaged files.
    """
    container: InputContainer = av.open(
        file, "r", options=options, io_open=io_open, buffer_size=_BUFFER_BYTES, **_TAG_OPTIONS
    )
    return container


def to_fraction(rational: Any) -> Fraction | None:
    """Convert a rate, time base or aspect ratio of PyAV; None if it is not set."""
    if not rational or not rational.denominator:
        return None
    return Fraction(rational.numerator, rational.denominator)


#: a, b, c, d of a display matrix by quarter turns anticlockwise.
_QUARTER_TURNS = ((1, 0, 0, 1), (0, -1, 1, 0), (-1, 0, 0, -1), (0, 1, -1, 0))


def display_matrix(frame: VideoFrame) -> tuple[int, int, int, int] | None:
    """Return a, b, c, d of a frame's display matrix, or None if it has none.

    The matrix maps pixel (x, y) to (a x + c y, b x + d y).
    """
    try:
        side_data: Any = frame.side_data  # annotated with str keys only
    except ValueError:  # a kind of side data that PyAV 18 does not know, such as Exif
        return _QUARTER_TURNS[round(frame.rotation / 90) % 4]
    matrix = side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return None
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32, 5).tolist()
    return a, b, c, d
