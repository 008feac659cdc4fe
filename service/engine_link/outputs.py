"""The results of the network as messages: a description in JSON, and the tensors' bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from model.network import Output

#: Bytes that the place of each tensor is a multiple of.
_ALIGNMENT = 8


def pack_output(output: Output) -> tuple[Any, list[memoryview]]:
    """Return the description of an output, and the bytes of its tensors, in order.

    Residuals are left out: training alone needs them.
    """
    parts: list[memoryview] = []
    return _pack(replace(output, residuals={}), parts), parts


def unpack_output(description: Any, body: bytes) -> Output:
    """Return the output of a description and the bytes of its tensors."""
    from model.network import Output

    output = _unpack(description, _Reader(body))
    assert isinstance(output, Output)
    return output


def _pack(value: Any, parts: list[memoryview]) -> Any:
    from torch import Tensor

    if isinstance(value, Tensor):
        array = np.ascontiguousarray(value.detach().numpy())
        parts.append(array.reshape(-1).view(np.uint8).data)
        parts.append(memoryview(bytes(-array.nbytes % _ALIGNMENT)))
        return ["tensor", array.dtype.str, array.shape]
    if isinstance(value, dict):
        return ["dict", {name: _pack(each, parts) for name, each in value.items()}]
    if is_dataclass(value):
        members = {each.name: _pack(getattr(value, each.name), parts) for each in fields(value)}
        return ["object", type(value).__name__, members]
    return ["value", value]


class _Reader:
    """Takes tensors from bytes, one after the other."""

    def __init__(self, body: bytes) -> None:
        # A copy, since torch takes no memory that may not be written.
        self._body = bytearray(body)
        self._at = 0

    def take(self, dtype: str, shape: Sequence[int]) -> Tensor:
        import torch

        kind = np.dtype(dtype)
        elements = int(np.prod(shape))
        array = np.frombuffer(self._body, kind, elements, self._at)
        self._at += array.nbytes + -array.nbytes % _ALIGNMENT
        return torch.from_numpy(array.reshape(shape))


def _unpack(packed: Any, reader: _Reader) -> Any:
    from model.output import LayerOperations, Output, StreamAttention

    kind, *content = packed
    if kind == "tensor":
        return reader.take(*content)
    if kind == "dict":
        return {name: _unpack(each, reader) for name, each in content[0].items()}
    if kind == "object":
        classes = {each.__name__: each for each in (Output, StreamAttention, LayerOperations)}
        name, members = content
        return classes[name](**{key: _unpack(each, reader) for key, each in members.items()})
    return content[0]
