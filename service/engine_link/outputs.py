"""The results of the network as messages: a description in JSON, and the arrays' bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.output import ArrayOutput, LayerOperations, Output, StreamAttention

#: Alignment of each array, in bytes.
_ALIGNMENT = 8
_CLASSES: dict[str, Any] = {
    kind.__name__: kind for kind in (Output, StreamAttention, LayerOperations)
}


def pack_output(output: ArrayOutput) -> tuple[Any, list[memoryview]]:
    """Return the description of an output, and the bytes of its arrays, in order."""
    parts: list[memoryview] = []
    return _pack(output, parts), parts


def unpack_output(description: Any, body: bytes | NDArray[Any]) -> ArrayOutput:
    """Return the output of a description and the bytes of its arrays, as views of these."""
    output = _unpack(description, _Reader(body))
    assert isinstance(output, Output)
    return output


def _pack(value: Any, parts: list[memoryview]) -> Any:
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value)
        parts.append(array.reshape(-1).view(np.uint8).data)
        parts.append(memoryview(bytes(-array.nbytes % _ALIGNMENT)))
        return ["array", array.dtype.str, array.shape]
    if isinstance(value, dict):
        return ["dict", {name: _pack(member, parts) for name, member in value.items()}]
    if is_dataclass(value):
        members = {
            member.name: _pack(getattr(value, member.name), parts) for member in fields(value)
        }
        return ["object", type(value).__name__, members]
    return ["value", value]


class _Reader:
    """Takes arrays from bytes, one after the other."""

    def __init__(self, body: bytes | NDArray[Any]) -> None:
        self._body = body
        self._at = 0

    def take(self, dtype: str, shape: Sequence[int]) -> NDArray[Any]:
        kind = np.dtype(dtype)
        elements = int(np.prod(shape))
        array = np.frombuffer(self._body, kind, elements, self._at)
        self._at += array.nbytes + -array.nbytes % _ALIGNMENT
        return array.reshape(shape)


def _unpack(packed: Any, reader: _Reader) -> Any:
    kind, *content = packed
    if kind == "array":
        return reader.take(*content)
    if kind == "dict":
        return {name: _unpack(member, reader) for name, member in content[0].items()}
    if kind == "object":
        name, members = content
        return _CLASSES[name](**{key: _unpack(member, reader) for key, member in members.items()})
    return content[0]
