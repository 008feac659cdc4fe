"""The checkpoints that are served, and their cards."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.classification.schemas import Models, ModelSummary
from service.errors import Error
from service.http.problem_document import problems
from service.http.state import state_of
from service.inference.models import Checkpoints

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", summary="List the checkpoints", response_model_exclude_none=True)
async def models(request: Request) -> Models:
    """Name, status, labels and streams of each, the default checkpoint first."""
    registry = state_of(request).registry
    return Models(models=[summary(registry, name) for name in registry.names])


@router.get(
    "/{name}",
    summary="A checkpoint's card",
    responses={
        200: {
            "description": "Streams and their preprocessing, labels, the network's configuration, "
            "training data with licences, measured accuracy, SHA-256 of the weights.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        },
        **problems(Error.UNKNOWN_MODEL, Error.NOT_READY, Error.MODEL_FAILED),
    },
    response_class=Response,
)
async def card(request: Request, name: str) -> Response:
    """Return the card: training data, preprocessing, configuration and accuracy."""
    model = state_of(request).registry.get(name)
    return Response(model.card.model_dump_json(), media_type="application/json")


def summary(registry: Checkpoints, name: str) -> ModelSummary:
    """Return the entry of a checkpoint in the list."""
    is_default = name == registry.default_name
    model = registry.find(name)
    if model is None:
        return ModelSummary(name=name, default=is_default, status=registry.status(name))
    card = model.card
    return ModelSummary(
        name=name,
        default=is_default,
        status="ready",
        version=card.version,
        description=card.description,
        streams=list(card.streams),
        labels=list(card.labels),
        steps=card.steps,
        missing_streams=card.missing_streams,
        device=model.device,
        path=model.path,
    )
