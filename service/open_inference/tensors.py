"""The tensors of a request and of an answer, and their bytes."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import Error, Problem

#: Datatypes of the protocol that are read or written; the values of BYTES are objects.
DTYPES: dict[str, np.dtype[Any]] = {
    "BYTES": np.dtype(object),
    "FP32": np.dtype("<f4"),
    "UINT8": np.dtype(np.uint8),
}
#: Most dimensions, and most elements of BYTES: each costs more than its bytes.
_MAX_DIMENSIONS, _MAX_FILES = 8, 100_000
#: The length in front of each element of BYTES.
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Tensor:
    """A named tensor: `values` of any shape, of the dtype of `datatype` in DTYPES; those of BYTES
    are `bytes`."""

    name: str
    datatype: str
    values: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape


def from_values(name: str, datatype: str, shape: Sequence[int], values: Any) -> Tensor:
    """Return the tensor of values in nested or flat sequences. Raises Problem INVALID_FIELD."""
    dtype, _ = _check(name, datatype, shape)
    if datatype == "BYTES":
        elements = flat_elements(name, shape, values)
        return Tensor(name, datatype, _objects(elements).reshape(shape))
    try:
        given = np.asarray(values)
        if given.dtype.kind in "bSU":  # booleans and texts, which would become numbers
            raise TypeError
        array = given.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        raise _invalid(name, "its data are not numbers") from None
    if datatype == "UINT8" and not ((array >= 0) & (array <= 255) & (array % 1 == 0)).all():
        raise _invalid(name, "UINT8 are whole numbers, 0 to 255")
    with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite
        return Tensor(name, datatype, _shaped(name, shape, array.astype(dtype)))


def flat_elements(name: str, shape: Sequence[int], values: Any) -> list[Any]:
    """Return the elements of BYTES in nested or flat sequences, of which there must be as many as
    the shape says. Raises Problem INVALID_FIELD; more than that are not looked at."""
    _, count = _check(name, "BYTES", shape)
    elements: list[Any] = []
    nested = [iter((values,))]  # not recursive: an element would cost as much as it is deep
    while nested and len(elements) <= count:
        value = next(nested[-1], nested)
        if value is nested:
            nested.pop()
        elif isinstance(value, list | tuple):
            nested.append(iter(value))
        else:
            elements.append(value)
    if len(elements) != count:
        has = f"more than {count}" if len(elements) > count else len(elements)
        raise _invalid(name, f"its shape is {list(shape)}, but it has {has} elements")
    return elements


def from_bytes(name: str, datatype: str, shape: Sequence[int], content: memoryview) -> Tensor:
    """Return the tensor of its bytes: numbers little-endian, elements of BYTES each after its
    length in 4 bytes. Raises Problem INVALID_FIELD."""
    dtype, count = _check(name, datatype, shape)
    if datatype == "BYTES":
        elements: list[bytes] = []
        rest = content
        while rest and len(elements) <= count:
            size = _LENGTH.unpack_from(rest)[0] if len(rest) >= _LENGTH.size else len(rest)
            if len(rest) < _LENGTH.size + size:
                raise _invalid(name, "an element of BYTES is longer than what was sent")
            elements.append(bytes(rest[_LENGTH.size : _LENGTH.size + size]))
            rest = rest[_LENGTH.size + size :]
        return Tensor(name, datatype, _shaped(name, shape, _objects(elements)))
    if len(content) % dtype.itemsize:
        raise _invalid(name, f"{len(content)} bytes are no whole number of {datatype}")
    return Tensor(name, datatype, _shaped(name, shape, np.frombuffer(content, dtype)))


def to_bytes(tensor: Tensor) -> bytes:
    """Return the bytes of a tensor, as `from_bytes` reads them."""
    if tensor.datatype != "BYTES":
        return tensor.values.tobytes()
    return b"".join(_LENGTH.pack(len(element)) + element for element in tensor.values.flat)


def to_list(tensor: Tensor) -> list[Any]:
    """Return all values in row-major order, those of BYTES as texts."""
    if tensor.datatype == "BYTES":
        return [element.decode() for element in tensor.values.flat]
    flat: list[Any] = tensor.values.ravel().tolist()
    return flat


def texts(name: str, rows: Sequence[Sequence[str]]) -> Tensor:
    """Return a tensor of texts [rows, columns]."""
    values = _objects([text.encode() for row in rows for text in row])
    return Tensor(name, "BYTES", values.reshape(len(rows), len(rows[0])))


def _check(name: str, datatype: str, shape: Sequence[int]) -> tuple[np.dtype[Any], int]:
    """Return the dtype and the number of elements. Raises Problem INVALID_FIELD."""
    if datatype not in DTYPES:
        raise _invalid(name, f"its datatype is {datatype[:20]!r}, not one of {', '.join(DTYPES)}")
    if not 1 <= len(shape) <= _MAX_DIMENSIONS or min(shape) < 1 or max(shape) >= 1 << 31:
        detail = f"its shape is {str(list(shape[:_MAX_DIMENSIONS]))[:100]}; it must have 1 to"
        raise _invalid(name, f"{detail} {_MAX_DIMENSIONS} dimensions, each from 1 to 2147483647")
    count = math.prod(shape)
    if datatype == "BYTES" and count > _MAX_FILES:
        raise _invalid(name, f"it has {count} elements; at most {_MAX_FILES} are accepted")
    return DTYPES[datatype], count


def _objects(elements: Sequence[bytes]) -> NDArray[Any]:
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


def _shaped(name: str, shape: Sequence[int], values: NDArray[Any]) -> NDArray[Any]:
    """Raises Problem INVALID_FIELD."""
    if math.prod(shape) != values.size:
        detail = f"its shape is {list(shape)}, but it has {values.size} elements"
        raise _invalid(name, detail)
    return values.reshape(shape)


def _invalid(name: str, detail: str) -> Problem:
    return Problem(Error.INVALID_FIELD, f"Input `{name[:100]}`: {detail}.", field=name[:100])
