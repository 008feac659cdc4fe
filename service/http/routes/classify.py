"""Routes that classify a clip: class probabilities, contributions and maps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from starlette.responses import Response

from service.classification.pipeline import Call
from service.classification.schemas import Classification
from service.classification.upload_fields import Kinds
from service.errors import Error
from service.http import json_body
from service.http.disconnect import run_until_disconnect
from service.http.form import form_fields, parse_form, request_body
from service.http.multipart_body import Form, FormFields, check_encoding, read_form
from service.http.multipart_part import split_header
from service.http.problem_document import problems
from service.http.state import record_of, state_of
from service.settings import MIB, Settings

router = APIRouter(prefix="/v1", tags=["classify"])

ERRORS = problems(
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


_ROUTE: dict[str, Any] = {
    "response_model": Classification,
    "response_model_exclude_none": True,
    "responses": ERRORS,
}


@router.post("/classify", summary="Classify a clip with the default checkpoint", **_ROUTE)
async def classify(request: Request) -> Response:
    """Send the files of a clip in a form, each in its field, or in base64 in a JSON object."""
    return await _classify(request, state_of(request).settings.default_model)


@router.post("/models/{name}/classify", summary="Classify a clip with this checkpoint", **_ROUTE)
async def classify_with(request: Request, name: str) -> Response:
    """Same form and answer as POST /v1/classify."""
    return await _classify(request, name)


async def _classify(request: Request, name: str) -> Response:
    state = state_of(request)
    settings = state.settings
    record = record_of(request)
    record.model = name if name in state.registry.names else None
    with state.in_flight.request(name) as model:
        model.check_capacity()  # before the upload is read
        check_encoding(request.headers.getlist("content-encoding"))
        kinds = model.card.kinds
        fields = form_fields(settings, kinds, name)
        fields.check_query(request.query_params)
        form = await _read_body(request, settings, fields)
        files, options = parse_form(form, settings, kinds, name)
        work = state.classifier.classify_with(model, files, options, Call(request.state.id, record))
        answer = await run_until_disconnect(request, work, settings.request_deadline_s)
    body = answer.model_dump_json(exclude_none=True)
    return Response(body, media_type="application/json")


async def _read_body(request: Request, settings: Settings, fields: FormFields) -> Form:
    """Read a form, or a JSON object with its fields. Raises Problem."""
    if is_json(request):
        max_bytes = settings.max_json_mib * MIB
        return await json_body.read_json(request.stream(), fields, max_bytes, settings.max_parts)
    content_type = request.headers.get("content-type")
    return await read_form(content_type, request.stream(), fields, settings.max_parts)


def is_json(request: Request) -> bool:
    """Return whether the body is JSON by its Content-Type."""
    return split_header(request.headers.get("content-type", ""))[0] == json_body.MEDIA_TYPE


def describe(schema: dict[str, Any], settings: Settings, checkpoints: Mapping[str, Kinds]) -> None:
    """Add the form to the routes' OpenAPI description: of the default checkpoint, and of all."""
    default = {name: kinds for name, kinds in checkpoints.items() if name == settings.default_model}
    for route in router.routes:
        assert isinstance(route, APIRoute)
        served = default if route.endpoint is classify else checkpoints
        schema["paths"][route.path]["post"]["requestBody"] = request_body(settings, served)
