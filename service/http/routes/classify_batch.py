"""Routes that classify several clips in one call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.responses import Response

from service.classification.option_fields import parse_options
from service.classification.options import Options
from service.classification.pipeline import Call
from service.classification.schemas import Classification
from service.classification.upload_fields import InputFiles, Kinds
from service.errors import Problem
from service.http import clip_forms, json_body
from service.http.disconnect import run_until_disconnect
from service.http.form import form_fields
from service.http.multipart_body import FormFields, check_encoding, read_form
from service.http.problem_document import ProblemDocument, document_of
from service.http.routes.classify import ERRORS, is_json
from service.http.state import count_clips, record_of, state_of
from service.settings import MIB, Settings

router = APIRouter(prefix="/v1", tags=["classify"])


class ClipResult(BaseModel):
    """The result of one clip: an answer, or a problem."""

    answer: Classification | None = None
    problem: ProblemDocument | None = None
    retry_after_s: float | None = Field(
        None, description="Of a problem that passes: seconds after which a retry makes sense."
    )


class ClipResults(BaseModel):
    """The result of each clip, in the order of the request."""

    id: str = Field(description="The request's id; that of clip 3 is the same with `.3` behind it.")
    results: list[ClipResult]


_ROUTE: dict[str, Any] = {
    "response_model": ClipResults,
    "response_model_exclude_none": True,
    "responses": ERRORS,
}


@router.post(
    "/classify/batch", summary="Classify several clips with the default checkpoint", **_ROUTE
)
async def classify_batch(request: Request) -> Response:
    """Each clip has an answer or a problem of its own, in the order sent. A call is refused as a
    whole where its form cannot be read or an option is out of range."""
    return await _classify(request, state_of(request).settings.default_model)


@router.post(
    "/models/{name}/classify/batch", summary="Classify several clips with this checkpoint", **_ROUTE
)
async def classify_batch_with(request: Request, name: str) -> Response:
    """Same form and answer as POST /v1/classify/batch."""
    return await _classify(request, name)


async def _classify(request: Request, name: str) -> Response:
    state = state_of(request)
    settings = state.settings
    record = record_of(request)
    record.model = name if name in state.registry.names else None
    with state.in_flight.request(name) as model:
        model.check_capacity()  # before the upload is read
        check_encoding(request.headers.getlist("content-encoding"))
        fields = replace(form_fields(settings, model.card.kinds, name), numbered=True)
        fields.check_query(request.query_params)
        clips = await _read_clips(request, settings, fields, name)
        await count_clips(request, len(clips))
        work = state.classifier.classify_clips(model, clips, Call(request.state.id, record))
        results = await run_until_disconnect(request, work, None)  # each clip has a deadline
    failed = sum(isinstance(result, Problem) for result in results)
    record.notes.update(clips=len(clips), failed=failed)
    clip_results = [_result(f"{request.state.id}.{n}", result) for n, result in enumerate(results)]
    body = ClipResults(id=request.state.id, results=clip_results).model_dump_json(exclude_none=True)
    return Response(body, media_type="application/json")


async def _read_clips(
    request: Request, settings: Settings, fields: FormFields, name: str
) -> list[tuple[InputFiles, Options]]:
    """Read files and options of each clip. Raises Problem."""
    if is_json(request):
        max_bytes = settings.max_json_mib * MIB
        clips = await json_body.read_json_clips(
            request.stream(), fields, max_bytes, settings.max_parts, settings.call_clips
        )
    else:
        content_type = request.headers.get("content-type")
        most = settings.max_parts * settings.call_clips
        form = await read_form(content_type, request.stream(), fields, most)
        parse_options(form.values, settings)  # of all clips: its problem names no clip
        clips = clip_forms.split_clips(form, fields, settings.call_clips)
    return clip_forms.parse_clips(clips, settings, name)


def _result(clip_id: str, result: Classification | Problem) -> ClipResult:
    if isinstance(result, Problem):
        problem = document_of(result, clip_id)
        return ClipResult(problem=problem, retry_after_s=result.retry_after_s)
    return ClipResult(answer=result)


def describe(schema: dict[str, Any], settings: Settings, checkpoints: Mapping[str, Kinds]) -> None:
    """Add the form to the routes' OpenAPI description: of the default checkpoint, and of all."""
    default = {name: kinds for name, kinds in checkpoints.items() if name == settings.default_model}
    for route in router.routes:
        assert isinstance(route, APIRoute)
        served = default if route.endpoint is classify_batch else checkpoints
        body = clip_forms.request_body(settings, served)
        schema["paths"][route.path]["post"]["requestBody"] = body
