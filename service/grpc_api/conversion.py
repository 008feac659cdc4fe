"""Messages of gRPC to and from the requests and tensors of the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from service.errors import Error, Problem
from service.grpc_api.messages import message
from service.open_inference import tensors
from service.open_inference.requests import InferRequest, RequestedOutput
from service.open_inference.tensors import Tensor

#: The member of InferTensorContents with the values of each datatype.
_CONTENTS = {"BYTES": "bytes_contents", "FP32": "fp32_contents", "UINT8": "uint_contents"}


def parse_request(request: Any) -> InferRequest:
    """Return a ModelInferRequest as the protocol has it. Raises Problem INVALID_FIELD."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        detail = f"There are {len(request.inputs)} inputs, but {len(raw)} `raw_input_contents`."
        raise Problem(Error.INVALID_FIELD, detail, field="raw_input_contents")
    inputs = [
        tensors.from_bytes(tensor.name, tensor.datatype, tensor.shape, memoryview(raw[number]))
        if raw
        else _from_contents(tensor)
        for number, tensor in enumerate(request.inputs)
    ]
    outputs = [_requested(output) for output in request.outputs]
    return InferRequest(inputs, outputs, _values(request.parameters), request.id)


def _from_contents(tensor: Any) -> Tensor:
    member = _CONTENTS.get(tensor.datatype)
    values = list(getattr(tensor.contents, member)) if member else []
    return tensors.from_values(tensor.name, tensor.datatype, tensor.shape, values)


def _requested(output: Any) -> RequestedOutput:
    """Raises Problem INVALID_FIELD."""
    top = _values(output.parameters).get("classification", 0)
    if not isinstance(top, int) or top < 0:
        detail = f"Output `{output.name[:100]}`: `classification` is no number of labels."
        raise Problem(Error.INVALID_FIELD, detail, field=output.name[:100])
    return RequestedOutput(output.name, top)


def _values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    values = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        values[name] = getattr(parameter, choice) if choice else None
    return values


def write_response(name: str, version: str, id: str, outputs: Sequence[Tensor]) -> Any:
    """Return a ModelInferResponse, with the outputs in bytes."""
    response = message("ModelInferResponse")(model_name=name, model_version=version, id=id)
    for tensor in outputs:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        response.raw_output_contents.append(tensors.to_bytes(tensor))
    return response
