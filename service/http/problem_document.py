"""Problem documents (RFC 9457): the body of every error response, and its OpenAPI description.

For another error format, change this module: no other one knows its media type or its members.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from service.errors import Error, Problem
from service.open_inference.schemas import InferenceError

MEDIA_TYPE = "application/problem+json"
#: Sentence of the OpenAPI description.
SUMMARY = f"Every error is a problem document (`{MEDIA_TYPE}`) whose `id` is in the log."
#: Name of the schema in the OpenAPI description.
SCHEMA_NAME = "Problem"


class ProblemDocument(BaseModel):
    """A problem document (RFC 9457)."""

    type: str = Field(examples=["urn:scmrl:error:unusable"])
    title: str = Field(examples=[Error.UNUSABLE.title])
    status: int = Field(examples=[422])
    detail: str = Field(examples=["`clip`: there are no pictures in it."])
    field: str | None = Field(
        None, description="The form field that caused the error.", examples=["clip"]
    )
    id: str | None = Field(None, description="The id of the request, which the log has as well.")


def document_of(problem: Problem, request_id: str | None = None) -> ProblemDocument:
    """Return the problem document."""
    return ProblemDocument(
        type=problem.error.type,
        title=problem.error.title,
        status=problem.error.status,
        detail=problem.detail,
        field=problem.field,
        id=request_id,
    )


def make_document(problem: Problem, request_id: str | None = None) -> dict[str, Any]:
    """Return the problem document as JSON, without members that are None."""
    return document_of(problem, request_id).model_dump(exclude_none=True)


def problems(*errors: Error) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI `responses` of a route's errors: one per status, described by titles."""
    titles: dict[int, list[str]] = {}
    for error in errors:
        titles.setdefault(error.status, []).append(error.title)
    schema = {"$ref": f"#/components/schemas/{SCHEMA_NAME}"}
    return {
        status: {"description": "; ".join(texts), "content": {MEDIA_TYPE: {"schema": schema}}}
        for status, texts in titles.items()
    }


def inference_errors(*errors: Error) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI `responses` as `problems` does, for the Open Inference Protocol."""
    described = problems(*errors)
    schema = {"$ref": f"#/components/schemas/{InferenceError.__name__}"}
    return {
        status: {**response, "content": {"application/json": {"schema": schema}}}
        for status, response in described.items()
    }


def add_schema(description: dict[str, Any]) -> None:
    """Add the schema of problem documents to an OpenAPI description."""
    schema = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas = description["components"]["schemas"]
    schemas.setdefault(SCHEMA_NAME, schema | {"title": SCHEMA_NAME})
    schemas.setdefault(InferenceError.__name__, InferenceError.model_json_schema())
