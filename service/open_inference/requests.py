"""A request for inference, and the clips in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from service.classification.option_fields import parse_options
from service.classification.options import MapDetail, Options
from service.classification.served_classifier import Content
from service.classification.upload_fields import InputFiles, UploadField, checkpoint_fields
from service.errors import Error, Problem
from service.open_inference.tensors import Tensor
from service.setting_names import variable
from service.settings import Settings

if TYPE_CHECKING:
    from model.checkpoint import Card

#: Options that are parameters of a request; the others say what the answer has, as outputs do.
PARAMETERS = ("steps", "exit_margin", "degrade", "abstain_below", "abstain_beyond")
#: Parameters of clients and of other servers, which change nothing here.
_IGNORED = frozenset(
    {"sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "content_type",
     "binary_data_output", "headers"}
)  # fmt: skip
#: Dimensions of a preprocessed stream: clips, T or 1, C, H, W.
_STREAM_DIMENSIONS = 5


@dataclass(frozen=True)
class RequestedOutput:
    """An output: its `name`; `top`: return the `top` highest as texts (0: all as numbers);
    `binary`: whether REST returns it as bytes, None as the request says."""

    name: str
    top: int = 0
    binary: bool | None = None


@dataclass(frozen=True)
class InferRequest:
    """A request for inference; without `outputs`, of all that need no maps.

    `binary`: in REST, return the outputs as bytes where they do not say otherwise.
    """

    inputs: Sequence[Tensor]
    outputs: Sequence[RequestedOutput] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""
    binary: bool = False


def clips_of(
    request: InferRequest, card: Card, settings: Settings, model: str
) -> list[tuple[Content, Options]]:
    """Return the content and the options of each clip. Files are not checked.

    Raises Problem INVALID_FIELD or TOO_LARGE.
    """
    contents = _contents(request.inputs, card, settings)
    options = replace(
        _options(request.parameters, settings, model),
        attention=_detail("attention", request.outputs),
        class_activation=_detail("class_activation", request.outputs),
    )
    return [(content, options) for content in contents]


def _detail(kind: str, outputs: Sequence[RequestedOutput]) -> MapDetail:
    return "grid" if any(output.name.startswith(f"{kind}.") for output in outputs) else "none"


def _options(parameters: Mapping[str, Any], settings: Settings, model: str) -> Options:
    """Raises Problem INVALID_FIELD."""
    texts = {}
    for name, value in parameters.items():
        if name in PARAMETERS:
            texts[name] = [_text(value)]
        elif name not in _IGNORED:
            detail = f"No such parameter: {name[:100]!r}; there are {', '.join(PARAMETERS)}."
            raise Problem(Error.INVALID_FIELD, detail, field=name[:100])
    return parse_options(texts, settings, model)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)[:100]


def _contents(inputs: Sequence[Tensor], card: Card, settings: Settings) -> list[Content]:
    """Raises Problem INVALID_FIELD or TOO_LARGE."""
    if not inputs:
        raise Problem(Error.INVALID_FIELD, "The request has no inputs.", field="inputs")
    names = [tensor.name for tensor in inputs]
    for tensor in inputs:
        if names.count(tensor.name) > 1:
            raise _invalid(tensor, "it was sent twice; send it once")
        if len(tensor.values) != len(inputs[0].values):
            counts = f"{len(tensor.values)} clips, `{inputs[0].name}` {len(inputs[0].values)}"
            raise _invalid(tensor, f"it has {counts}")
    count = len(inputs[0].values)
    if count > settings.call_clips:
        detail = f"There are {count} clips; at most {settings.call_clips} are accepted"
        raise Problem(Error.TOO_LARGE, f"{detail} (SCMRL_CALL_CLIPS).", field=inputs[0].name)
    of_files = [tensor for tensor in inputs if tensor.datatype == "BYTES"]
    if not of_files:
        arrays = {tensor.name: _stream(tensor, card) for tensor in inputs}
        return [{name: array[n] for name, array in arrays.items()} for n in range(count)]
    if len(of_files) < len(inputs):
        raise _invalid(of_files[0], "files (BYTES) and tensors of streams do not go together")
    rows = {row.name: row for row in checkpoint_fields(card.kinds)}
    files = {tensor.name: _files(tensor, rows, settings) for tensor in inputs}
    return [InputFiles(**{name: clips[n] for name, clips in files.items()}) for n in range(count)]


def _stream(tensor: Tensor, card: Card) -> NDArray[np.float32]:
    """Return a preprocessed stream [clips, T or 1, C, H, W]. Raises Problem INVALID_FIELD."""
    if tensor.name not in card.streams:
        streams = ", ".join(card.streams)
        detail = f"there is no such stream; there are {streams}. Files have the datatype BYTES"
        raise _invalid(tensor, detail)
    if tensor.values.ndim != _STREAM_DIMENSIONS:
        spec = card.streams[tensor.name]
        needed = f"[clips, T or 1, {spec.channels}, {spec.size[0]}, {spec.size[1]}]"
        raise _invalid(tensor, f"its shape is {list(tensor.shape)}; needed is {needed}")
    return tensor.values.astype(np.float32)


def _files(
    tensor: Tensor, rows: Mapping[str, UploadField], settings: Settings
) -> list[list[bytes]]:
    """Return the files of each clip; empty elements are none.

    Raises Problem INVALID_FIELD or TOO_LARGE.
    """
    row = rows.get(tensor.name)
    if row is None:
        raise _invalid(tensor, f"there is no such field; there are {', '.join(rows)}")
    files = tensor.values.reshape(len(tensor.values), -1)
    if row.max_files is None and files.shape[1] > 1:
        raise _invalid(tensor, f"its shape is {list(tensor.shape)}; needed is [clips, 1]")
    max_bytes = int(getattr(settings, row.max_bytes))
    for data in files.flat:
        if not isinstance(data, bytes):
            raise _invalid(tensor, "an element is no file")
        if len(data) > max_bytes:
            accepted = f"a file has at most {max_bytes} bytes ({variable(row.max_bytes)})"
            detail = f"Input `{row.name}`: {accepted}."
            raise Problem(Error.TOO_LARGE, detail, field=row.name)
    return [[data for data in clip if data] for clip in files]


def _invalid(tensor: Tensor, detail: str) -> Problem:
    name = tensor.name[:100]
    return Problem(Error.INVALID_FIELD, f"Input `{name}`: {detail}.", field=name)
