"""A clip in; class probabilities, contributions and attention maps out."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from model.media.types import Limits
from service.classification import answer
from service.classification.encode import encoded
from service.classification.inputs import InputFiles
from service.classification.schemas import Classification
from service.decoding.job import DecodeRequest, DecodeResult
from service.errors import Error
from service.http.disconnect import while_wanted
from service.http.form import ATTENTION_DETAILS, FIELDS, FILES, VALUES, Options, interpret
from service.http.routes.responses import problems
from service.http.state import State, account_of, state_of
from service.http.uploads import UploadLimits, check_encoding, read_form
from service.inference.admission import reduce_steps
from service.inference.served_model import Model
from service.settings import Settings

router = APIRouter(prefix="/v1", tags=["classify"])

_ERRORS = problems(
    Error.UNREADABLE_FORM,
    Error.UNKNOWN_MODEL,
    Error.UPLOAD_TIMEOUT,
    Error.TOO_LARGE,
    Error.UNKNOWN_FORMAT,
    Error.UNSUPPORTED_ENCODING,
    Error.UNUSABLE,
    Error.INVALID_FIELD,
    Error.NOT_READY,
    Error.STOPPING,
    Error.FULL,
    Error.DEADLINE,
    Error.DECODE_TIMEOUT,
)


def _form_schema() -> dict[str, Any]:
    """The form as OpenAPI tells of it: the body is read while it streams, not by FastAPI."""
    binary = {"type": "string", "format": "binary"}
    files: dict[str, Any] = {name: {**binary, "description": what} for name, what in FILES.items()}
    files["frames"] = {"type": "array", "items": binary, "description": FILES["frames"]}
    values: dict[str, dict[str, Any]] = {
        "steps": {"type": "integer", "minimum": 1},  # its maximum is a setting: describe_limits
        "top_k": {"type": "integer", "minimum": 1},
        "attention": {"type": "string", "enum": list(ATTENTION_DETAILS), "default": "grid"},
        "degrade": {"type": "boolean", "default": True},
    }
    for name, what in VALUES.items():
        values[name]["description"] = what
    schema = {"type": "object", "properties": files | values, "additionalProperties": False}
    return {
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}
    }


def describe_limits(schema: dict[str, Any], settings: Settings) -> None:
    """Add the form's limits that are settings to the application's OpenAPI description."""
    for path, operations in schema["paths"].items():
        if path.endswith("/classify"):
            body = operations["post"]["requestBody"]["content"]["multipart/form-data"]
            body["schema"]["properties"]["steps"]["maximum"] = settings.max_steps


_ROUTE: dict[str, Any] = {
    "response_model": Classification,
    "response_model_exclude_none": True,
    "responses": _ERRORS,
    "openapi_extra": _form_schema(),
}


@router.post("/classify", summary="Classify a clip with the default checkpoint", **_ROUTE)
async def classify(request: Request) -> Response:
    """Send `clip`, or `video` and `audio`, or `frames` (repeated) and `audio`."""
    return await _classify(request, state_of(request).settings.default_model)


@router.post("/models/{name}/classify", summary="Classify a clip with this checkpoint", **_ROUTE)
async def classify_with(request: Request, name: str) -> Response:
    """The same form and the same answer as POST /v1/classify."""
    return await _classify(request, name)


async def _classify(request: Request, name: str) -> Response:
    state = state_of(request)
    settings = state.settings
    account = account_of(request)
    account.model = name if name in state.registry.names else None
    with state.in_flight.request(name) as model:
        model.batcher.check_capacity()
        check_encoding(request.headers.getlist("content-encoding"))
        form = await read_form(
            request.headers.get("content-type"),
            request.stream(),
            FIELDS,
            UploadLimits(settings.max_file_bytes, settings.max_parts),
        )
        files, options = interpret(
            form, max_steps=settings.max_steps, max_frames=settings.max_frames
        )
        work = _answer(request, state, model, files, options)
        result = await while_wanted(request, work, settings.request_deadline_s)
    body = result.model_dump_json(exclude_none=True)
    return Response(body, media_type="application/json")


async def _answer(
    request: Request, state: State, model: Model, files: InputFiles, options: Options
) -> Classification:
    """Take a slot, decode, run in a batch, and explain."""
    started = time.perf_counter()
    account = account_of(request)
    with model.batcher.slot() as slot:
        steps = _steps(state.settings, model, options)
        limits, canvas = media_limits(state.settings), options.attention == "overlay"
        wanted = DecodeRequest.from_card(model.card, steps, limits, canvas)
        account.notes["steps"] = steps
        with account.attempt("decode"):
            decoded = await state.decoders.decode(files, wanted)
        account.lasted(*_reading(decoded, time.perf_counter() - started))
        inputs = encoded(decoded.prepared, model.card, steps)
        with account.attempt("run"):
            ran = await slot.run(inputs, steps, answer.asked(options))
        account.lasted(("queue", ran.queue_s), ("inference", ran.inference_s))
        account.firing_rates = {n: float(rate[0]) for n, rate in ran.output.firing_rates.items()}
        parts = answer.Parts(model.name, model.card, options, decoded, ran, steps)
        with account.stage("explain"):
            explained = await asyncio.to_thread(answer.explained, parts)
    result = answer.build(
        parts, explained, request_id=request.state.id, total_s=time.perf_counter() - started
    )
    timing = result.timing_ms
    account.degraded = result.degraded
    if result.degraded:
        account.notes["degraded"] = True
    account.notes.update(
        streams="+".join(inputs),
        batch=ran.batch_size,
        decode_ms=timing.decode,
        queue_ms=timing.queue,
        inference_ms=timing.inference,
    )
    return result


def _steps(settings: Settings, model: Model, options: Options) -> int:
    """T as asked for; else the checkpoint's, lowered where the load and the operator say so."""
    if options.steps is not None:
        return options.steps
    if not options.degrade:
        return model.card.steps
    return reduce_steps(model.card.steps, settings.shed_steps, model.batcher.pressure)


def _reading(decoded: DecodeResult, seconds: float) -> tuple[tuple[str, float], ...]:
    """The stages of reading files in `seconds` together; the first waits for a process."""
    waited = max(0.0, seconds - decoded.decode_s - decoded.preprocess_s)
    return (
        ("decode_wait", waited),
        ("decode", decoded.decode_s),
        ("preprocess", decoded.preprocess_s),
    )


def media_limits(settings: Settings) -> Limits:
    """The decoder's limits, of those that are settings."""
    return Limits(
        max_duration_s=settings.max_duration_s,
        max_pixels=settings.max_pixels,
        max_composed_pixels=settings.max_composed_pixels,
        max_inflated_bytes=settings.max_inflated_bytes,
        max_decoded_pixels=settings.max_decoded_pixels,
        max_demux_cpu_s=settings.max_demux_cpu_s,
        max_frames=max(settings.max_frames, settings.max_steps),  # a picture for each step
        max_channels=settings.max_channels,
        max_sample_rate=settings.max_sample_rate,
    )
