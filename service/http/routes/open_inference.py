"""Routes of the Open Inference Protocol v2, as KServe and Triton have them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from service.classification.pipeline import Call
from service.classification.served_classifier import ServedClassifier
from service.errors import Error, Problem
from service.http.content_encoding import compress, read_body
from service.http.disconnect import run_until_disconnect
from service.http.open_inference_body import JSON_LENGTH, parse_request, write_response
from service.http.paths import OPEN_INFERENCE
from service.http.state import count_clips, record_of, state_of
from service.inference.models import Checkpoint
from service.open_inference import metadata
from service.open_inference.inference import Inference
from service.settings import MIB

#: The protocol has a description of its own.
router = APIRouter(prefix=OPEN_INFERENCE, include_in_schema=False)

#: Longest body of a request for the index.
_MAX_INDEX_BYTES = 1024
_MODEL = "/models/{name}"
_VERSION = "/models/{name}/versions/{version}"


@router.get("")
async def server() -> JSONResponse:
    """Return the server's name, version and extensions."""
    return JSONResponse(metadata.server())


@router.get("/health/live")
async def live() -> JSONResponse:
    """200 while the process lives."""
    return JSONResponse({"live": True})


@router.get("/health/ready")
async def ready(request: Request) -> JSONResponse:
    """200 if /readyz is 200, else 503."""
    is_ready = not await state_of(request).not_ready_reason()
    return JSONResponse({"ready": is_ready}, status_code=200 if is_ready else 503)


@router.get("/models")
async def models(request: Request) -> JSONResponse:
    """Return the names of all checkpoints."""
    return JSONResponse({"models": state_of(request).registry.names})


@router.post("/repository/index")
async def index(request: Request) -> JSONResponse:
    """Return the state of every checkpoint; with `ready`, of those that are ready."""
    body = await read_body(
        request.stream(), request.headers.getlist("content-encoding"), _MAX_INDEX_BYTES,
        request.state.reserve,
    )  # fmt: skip
    try:
        options = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        options = None
    if not isinstance(options, dict):
        raise Problem(Error.UNREADABLE_FORM, "The body must be a JSON object, or empty.")
    only_ready = options.get("ready") is True
    return JSONResponse(metadata.index(state_of(request).registry, only_ready=only_ready))


@router.get(_MODEL)
@router.get(_VERSION)
async def model(request: Request, name: str, version: str = "") -> JSONResponse:
    """Return the inputs and outputs of a checkpoint."""
    return JSONResponse(metadata.model(_get(request, name, version)))


@router.get(_MODEL + "/config")
@router.get(_VERSION + "/config")
async def config(request: Request, name: str, version: str = "") -> JSONResponse:
    """Return a checkpoint's configuration, as Triton's clients read it."""
    served = _get(request, name, version)
    return JSONResponse(metadata.config(served, state_of(request).settings))


@router.get(_MODEL + "/ready")
@router.get(_VERSION + "/ready")
async def model_ready(request: Request, name: str, version: str = "") -> JSONResponse:
    """200 if a checkpoint can answer."""
    _get(request, name, version)
    is_ready = await state_of(request).models.is_served(name)
    body = {"name": name, "ready": is_ready}
    return JSONResponse(body, status_code=200 if is_ready else 503)


@router.post(_MODEL + "/infer")
@router.post(_VERSION + "/infer")
async def infer(request: Request, name: str, version: str = "") -> Response:
    """Classify the clips of a request, whose first dimension they are."""
    state, record = state_of(request), record_of(request)
    settings = state.settings
    record.model = name if name in state.registry.names else None
    with state.in_flight.request(name) as served:
        metadata.check_version(served, version)
        served.check_capacity()  # before the body is read
        length = request.headers.get(JSON_LENGTH)
        body = await read_body(
            request.stream(),
            request.headers.getlist("content-encoding"),
            settings.max_json_mib * MIB if length is None else settings.max_body_bytes,
            request.state.reserve,
        )
        parsed = await asyncio.to_thread(parse_request, body, length, settings.max_json_mib * MIB)
        classifier = ServedClassifier(state.in_flight, state.decoders, settings)
        inference = await asyncio.to_thread(Inference.of, parsed, served, classifier)
        await count_clips(request, len(inference.clips))
        record.notes["clips"] = len(inference.clips)
        work = inference.run(classifier, Call(request.state.id, record))
        outputs = await run_until_disconnect(request, work, None)  # each clip has a deadline
        head: dict[str, Any] = {
            "model_name": name,
            "model_version": served.card.version,
            "id": parsed.id or request.state.id,
        }
    content, headers = await asyncio.to_thread(write_response, head, outputs, parsed)
    content, more = await compress(content, request.headers.get("accept-encoding", ""))
    return Response(content, headers=headers | more)


def _get(request: Request, name: str, version: str) -> Checkpoint:
    """Return a checkpoint that is served. Raises Problem."""
    served = state_of(request).registry.get(name)
    metadata.check_version(served, version)
    return served
