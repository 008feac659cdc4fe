"""Bodies of the Open Inference Protocol over REST: JSON, and tensors in bytes behind it."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from model.validation import describe_located
from service.errors import Error, Problem
from service.http.json_body import DATA_URL, count_marks
from service.open_inference import tensors
from service.open_inference.requests import InferRequest, RequestedOutput
from service.open_inference.schemas import (
    InferenceInput,
    InferenceRequest,
    RequestedInferenceOutput,
    TensorParameters,
)
from service.open_inference.tensors import Tensor

#: Length of the JSON in front of the tensors in bytes, in requests and responses.
JSON_LENGTH = "Inference-Header-Content-Length"
#: Media types of the body without and with tensors in bytes.
JSON, BINARY = "application/json", "application/octet-stream"
#: Most numbers and lists in the JSON, each of which has a mark: parsing holds up other requests.
_MAX_MARKS = 2_000_000


def parse_request(body: bytes, json_length: str | None, max_json_bytes: int) -> InferRequest:
    """Parse a whole body, with the value of its header JSON_LENGTH.

    Elements of BYTES in JSON are base64 or data URLs. Raises Problem UNREADABLE_FORM, INVALID_FIELD
    or TOO_LARGE.
    """
    length = _json_length(json_length, len(body))
    if length > max_json_bytes:
        detail = f"The JSON has at most {max_json_bytes} bytes (SCMRL_MAX_JSON_MIB)"
        raise Problem(Error.TOO_LARGE, f"{detail}; send larger tensors as binary data.")
    if count_marks(body, length) > _MAX_MARKS:
        detail = (
            f"The JSON has more than {_MAX_MARKS} numbers and lists; send tensors as binary data."
        )
        raise Problem(Error.TOO_LARGE, detail)
    content = memoryview(body)
    try:
        request = InferenceRequest.model_validate_json(bytes(content[:length]))
    except ValidationError as exc:
        first = exc.errors()[0]
        location = ".".join(map(str, first["loc"]))
        detail = f"The JSON of the request: {describe_located(first)}."
        raise Problem(Error.UNREADABLE_FORM, detail[:500], field=location or None) from None
    parameters = request.parameters or {}
    return InferRequest(
        inputs=_inputs(request.inputs, content[length:]),
        outputs=[_requested(output) for output in request.outputs or ()],
        parameters=parameters,
        id=request.id or "",
        binary=parameters.get("binary_data_output") is True,
    )


def _json_length(header: str | None, size: int) -> int:
    """Raises Problem UNREADABLE_FORM."""
    if header is None:
        return size
    if not (header.isascii() and header.isdecimal() and len(header) < 16 and int(header) <= size):
        detail = f"{JSON_LENGTH} is {header[:30]!r}; it must be at most the body's {size} bytes."
        raise Problem(Error.UNREADABLE_FORM, detail)
    return int(header)


def _inputs(inputs: Sequence[InferenceInput], content: memoryview) -> list[Tensor]:
    """Raises Problem INVALID_FIELD."""
    parsed = []
    for tensor in inputs:
        size = tensor.parameters.binary_data_size if tensor.parameters is not None else None
        if size is None:
            data = tensor.data
            if data is None:
                detail = f"Input `{tensor.name[:100]}` has neither `data` nor `binary_data_size`."
                raise Problem(Error.INVALID_FIELD, detail, field=tensor.name[:100])
            if tensor.datatype == "BYTES":
                elements = tensors.flat_elements(tensor.name, tensor.shape, data)
                data = [_decoded(tensor.name, element) for element in elements]
            parsed.append(tensors.from_values(tensor.name, tensor.datatype, tensor.shape, data))
            continue
        if size > len(content):
            detail = f"`binary_data_size` is {size}, but {len(content)} bytes are left"
            raise Problem(Error.INVALID_FIELD, f"Input `{tensor.name[:100]}`: {detail}.")
        parsed.append(
            tensors.from_bytes(tensor.name, tensor.datatype, tensor.shape, content[:size])
        )
        content = content[size:]
    if content:
        detail = (
            f"{len(content)} bytes follow those of the last input; the `binary_data_size` of all "
            "inputs must add up to the bytes after the JSON."
        )
        raise Problem(Error.INVALID_FIELD, detail)
    return parsed


def _decoded(name: str, value: Any) -> bytes:
    """Decode base64. Raises Problem INVALID_FIELD."""
    if not isinstance(value, str):
        raise Problem(Error.INVALID_FIELD, f"Input `{name[:100]}`: BYTES in JSON are base64.")
    prefix = DATA_URL.match(value)
    try:
        return base64.b64decode(value[prefix.end() :] if prefix else value, validate=True)
    except ValueError as exc:
        detail = f"Input `{name[:100]}` is not base64: {exc}. Send base64, or files as binary data."
        raise Problem(Error.INVALID_FIELD, detail, field=name[:100]) from exc


def _requested(output: RequestedInferenceOutput) -> RequestedOutput:
    parameters = output.parameters or TensorParameters()
    return RequestedOutput(output.name, parameters.classification, parameters.binary_data)


def write_response(
    head: dict[str, Any], outputs: Sequence[Tensor], request: InferRequest
) -> tuple[bytes, dict[str, str]]:
    """Return the body of a response and its headers. `head`: its members but the outputs."""
    binary = {output.name: output.binary for output in request.outputs}
    described: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for tensor in outputs:
        entry = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        is_binary = binary.get(tensor.name)
        if request.binary if is_binary is None else is_binary:
            blobs.append(tensors.to_bytes(tensor))
            described.append(entry | {"parameters": {"binary_data_size": len(blobs[-1])}})
        else:
            described.append(entry | {"data": tensors.to_list(tensor)})
    text = json.dumps(head | {"outputs": described}, separators=(",", ":")).encode()
    if not blobs:
        return text, {"Content-Type": JSON}
    return b"".join((text, *blobs)), {"Content-Type": BINARY, JSON_LENGTH: str(len(text))}
