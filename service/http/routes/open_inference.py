"""Routes of the Open Inference Protocol v2, as KServe and Triton have them."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ValidationError
from starlette.responses import JSONResponse, Response

from service.classification.pipeline import Call
from service.errors import Error, Problem
from service.http.content_encoding import compress, read_body
from service.http.disconnect import run_until_disconnect
from service.http.open_inference_body import (
    BINARY,
    JSON,
    JSON_LENGTH,
    parse_request,
    write_response,
)
from service.http.paths import OPEN_INFERENCE
from service.http.problem_document import inference_errors
from service.http.state import count_clips, record_of, state_of
from service.inference.models import Checkpoint
from service.open_inference import metadata, schemas
from service.open_inference.inference import Inference
from service.settings import MIB

router = APIRouter(prefix=OPEN_INFERENCE, tags=["Open Inference Protocol"])

#: Longest body of a request for the index.
_MAX_INDEX_BYTES = 1024
_MODEL = "/models/{name}"
_VERSION = "/versions/{version}"
_NO_MODEL = inference_errors(Error.UNKNOWN_MODEL, Error.NOT_READY, Error.MODEL_FAILED)
#: Of a request with a body.
_OF_BODY = (Error.UNREADABLE_FORM, Error.UPLOAD_TIMEOUT, Error.TOO_LARGE,
            Error.UNSUPPORTED_ENCODING)  # fmt: skip
_ERRORS = inference_errors(
    *_OF_BODY, Error.UNKNOWN_MODEL, Error.UNKNOWN_FORMAT, Error.UNUSABLE, Error.INVALID_FIELD,
    Error.NOT_READY, Error.STOPPING, Error.FULL, Error.DEADLINE, Error.DECODE_TIMEOUT,
)  # fmt: skip
_BYTES = {"schema": {"type": "string", "format": "binary"}}
_JSON_LENGTH: dict[str, Any] = {
    "description": "Bytes of the JSON, where tensors in bytes follow it.",
    "schema": {"type": "integer", "minimum": 0},
}


@router.get("", summary="The server", response_model=schemas.ServerMetadata)
async def server() -> JSONResponse:
    """Return the server's name, version and extensions."""
    return JSONResponse(metadata.server())


@router.get("/health/live", summary="The process is alive", response_model=schemas.Live)
async def live() -> JSONResponse:
    """200 while the process lives."""
    return JSONResponse({"live": True})


@router.get(
    "/health/ready",
    summary="The default checkpoint can answer",
    response_model=schemas.Ready,
    responses={503: {"model": schemas.Ready, "description": "Not ready"}},
)
async def ready(request: Request) -> JSONResponse:
    """200 if /readyz is 200, else 503."""
    is_ready = not await state_of(request).not_ready_reason()
    return JSONResponse({"ready": is_ready}, status_code=200 if is_ready else 503)


@router.get("/models", summary="Names of the checkpoints", response_model=schemas.ModelNames)
async def models(request: Request) -> JSONResponse:
    """Return the names of all checkpoints."""
    return JSONResponse({"models": state_of(request).registry.names})


@router.post(
    "/repository/index",
    summary="State of each checkpoint",
    response_model=list[schemas.IndexEntry],
    responses=inference_errors(*_OF_BODY),
)
async def index(request: Request) -> JSONResponse:
    """Return the state of every checkpoint; with `ready`, of those that are ready."""
    body = await read_body(
        request.stream(), request.headers.getlist("content-encoding"), _MAX_INDEX_BYTES,
        request.state.reserve,
    )  # fmt: skip
    try:
        options = schemas.IndexRequest.model_validate_json(body or b"{}")
    except ValidationError:
        detail = "The body must be a JSON object with a boolean `ready`, or empty."
        raise Problem(Error.UNREADABLE_FORM, detail) from None
    return JSONResponse(
        metadata.index(state_of(request).registry, only_ready=options.ready is True)
    )


@router.get(
    _MODEL,
    summary="Inputs and outputs of a checkpoint",
    response_model=schemas.ModelMetadata,
    responses=_NO_MODEL,
)
@router.get(_MODEL + _VERSION, include_in_schema=False)
async def model(request: Request, name: str) -> JSONResponse:
    """Return the inputs and outputs of a checkpoint."""
    return JSONResponse(metadata.model(_get(request, name)))


@router.get(
    _MODEL + "/config",
    summary="Configuration of a checkpoint, for clients of Triton",
    response_model=schemas.ModelConfig,
    responses=_NO_MODEL,
)
@router.get(_MODEL + _VERSION + "/config", include_in_schema=False)
async def config(request: Request, name: str) -> JSONResponse:
    """Return a checkpoint's configuration, as Triton's clients read it."""
    return JSONResponse(metadata.config(_get(request, name), state_of(request).settings))


@router.get(
    _MODEL + "/ready",
    summary="The checkpoint can answer",
    response_model=schemas.ModelReady,
    responses=inference_errors(Error.UNKNOWN_MODEL) | {
        503: {
            "description": "Not ready",
            "content": {"application/json": {"schema": {"anyOf": [
                {"$ref": "#/components/schemas/ModelReady"},
                {"$ref": "#/components/schemas/InferenceError"},
            ]}}},
        }
    },
)  # fmt: skip
@router.get(_MODEL + _VERSION + "/ready", include_in_schema=False)
async def model_ready(request: Request, name: str) -> JSONResponse:
    """200 if a checkpoint can answer."""
    _get(request, name)
    is_ready = await state_of(request).models.is_served(name)
    body = {"name": name, "ready": is_ready}
    return JSONResponse(body, status_code=200 if is_ready else 503)


@router.post(
    _MODEL + "/infer",
    summary="Classify clips or tensors",
    response_model=schemas.InferenceResponse,
    response_model_exclude_none=True,
    responses=_ERRORS | {
        200: {"headers": {JSON_LENGTH: _JSON_LENGTH}, "content": {BINARY: _BYTES}},
    },
)  # fmt: skip
@router.post(_MODEL + _VERSION + "/infer", include_in_schema=False)
async def infer(request: Request, name: str) -> Response:
    """Classify the clips of a request, whose first dimension they are. Tensors are in the JSON, or
    in bytes behind it, whose length is then in Inference-Header-Content-Length."""
    state, record = state_of(request), record_of(request)
    settings = state.settings
    record.model = name if name in state.registry.names else None
    with state.in_flight.request(name) as served:
        metadata.check_version(served, request.path_params.get("version", ""))
        served.check_capacity()  # before the body is read
        length = request.headers.get(JSON_LENGTH)
        body = await read_body(
            request.stream(),
            request.headers.getlist("content-encoding"),
            settings.max_json_mib * MIB if length is None else settings.max_body_bytes,
            request.state.reserve,
        )
        parsed = await asyncio.to_thread(parse_request, body, length, settings.max_json_mib * MIB)
        inference = await asyncio.to_thread(Inference.of, parsed, served, state.classifier)
        await count_clips(request, len(inference.clips))
        record.notes["clips"] = len(inference.clips)
        work = inference.run(state.classifier, Call(request.state.id, record))
        outputs = await run_until_disconnect(request, work, None)  # each clip has a deadline
        head: dict[str, Any] = {
            "model_name": name,
            "model_version": served.card.version,
            "id": parsed.id or request.state.id,
        }
    content, headers = await asyncio.to_thread(write_response, head, outputs, parsed)
    content, more = await compress(content, request.headers.get("accept-encoding", ""))
    return Response(content, headers=headers | more)


def _get(request: Request, name: str) -> Checkpoint:
    """Return a checkpoint that is served, in the version of the path. Raises Problem."""
    served = state_of(request).registry.get(name)
    metadata.check_version(served, request.path_params.get("version", ""))
    return served


def describe(description: dict[str, Any]) -> None:
    """Add bodies and the paths with versions to an OpenAPI description."""
    paths = description["paths"]
    index = _body(description, schemas.IndexRequest)
    paths[f"{OPEN_INFERENCE}/repository/index"]["post"]["requestBody"] = {"content": {JSON: index}}
    infer = paths[f"{OPEN_INFERENCE}{_MODEL}/infer"]["post"]
    infer["requestBody"] = {
        "required": True,
        "content": {
            JSON: _body(description, schemas.InferenceRequest),
            BINARY: {"schema": {"type": "string", "format": "binary"}},
        },
    }
    infer["parameters"].append({"name": JSON_LENGTH, "in": "header", **_JSON_LENGTH})
    version = {"name": "version", "in": "path", "required": True, "schema": {"type": "string"}}
    begin = OPEN_INFERENCE + _MODEL
    for path in [path for path in paths if path.startswith(begin)]:
        operations = paths[begin + _VERSION + path.removeprefix(begin)] = deepcopy(paths[path])
        for operation in operations.values():
            operation["operationId"] += "_version"
            operation["parameters"].append(version)


def _body(description: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Return the content of a request body, and add its schemas to the description."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    description["components"]["schemas"] |= schema.pop("$defs", {}) | {model.__name__: schema}
    return {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}
