"""The bodies of the Open Inference Protocol over REST: as requests are parsed, and as OpenAPI
describes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from model.validation import WholeNumber


class _Model(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())


class TensorParameters(_Model):
    """Parameters of a tensor that mean something here.

    `binary_data_size`: bytes of an input behind the JSON. Of a requested output: `binary_data`,
    whether it is sent as bytes; `classification`: the number of highest values that are sent as
    texts.
    """

    binary_data_size: WholeNumber | None = Field(None, ge=0)
    binary_data: bool | None = None
    classification: WholeNumber = Field(0, ge=0)


class InferenceInput(_Model):
    """An input: a file for each clip (BYTES, base64 in JSON), or a preprocessed stream. It has
    `data`, or `binary_data_size` as a parameter."""

    name: str
    shape: list[WholeNumber]
    datatype: str = Field(description="BYTES, FP32 or UINT8")
    parameters: TensorParameters | None = None
    data: list[Any] | None = None


class RequestedInferenceOutput(_Model):
    name: str
    parameters: TensorParameters | None = None


class InferenceRequest(_Model):
    """The JSON of a request. `parameters`: options of the request."""

    id: str | None = None
    inputs: list[InferenceInput]
    outputs: list[RequestedInferenceOutput] | None = None
    parameters: dict[str, Any] | None = None


class InferenceOutput(_Model):
    """An output, flat in `data`, or of `binary_data_size` bytes behind the JSON."""

    name: str
    datatype: Literal["BYTES", "FP32"]
    shape: list[int]
    parameters: dict[str, int] | None = None
    data: list[float | str] | None = None


class InferenceResponse(_Model):
    model_name: str
    model_version: str
    id: str
    outputs: list[InferenceOutput]


class InferenceError(_Model):
    """Every error of the protocol."""

    error: str


class Live(_Model):
    live: bool


class Ready(_Model):
    ready: bool


class ModelReady(_Model):
    name: str
    ready: bool


class ServerMetadata(_Model):
    name: str
    version: str
    extensions: list[str]


class ModelNames(_Model):
    models: list[str]


class IndexRequest(_Model):
    """`ready`: list the checkpoints that are ready alone. Null, as left out, lists all."""

    ready: StrictBool | None = None


class IndexEntry(_Model):
    """The state of a checkpoint; its version where it is known."""

    name: str
    version: str
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str


class TensorMetadata(_Model):
    """`shape`: -1 stands for any number; the first dimension is the clips."""

    name: str
    datatype: Literal["BYTES", "FP32"]
    shape: list[int]


class ModelMetadata(_Model):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ConfigTensor(_Model):
    """`dims`: without the dimension of the clips."""

    name: str
    data_type: Literal["TYPE_STRING", "TYPE_FP32"]
    dims: list[int]
    optional: bool | None = None


class ConfigParameter(_Model):
    string_value: str


class ModelConfig(_Model):
    """The configuration as Triton's clients read it."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[ConfigTensor]
    output: list[ConfigTensor]
    parameters: dict[str, ConfigParameter]
