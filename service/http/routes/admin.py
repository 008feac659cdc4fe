"""Routes for operators: load and unload checkpoints while others are served."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.classification.schemas import ModelSummary
from service.errors import Error
from service.http.problem_document import problems
from service.http.routes.models import summary
from service.http.state import state_of

router = APIRouter(prefix="/v1/admin/models", tags=["admin"])


@router.put(
    "/{name}",
    summary="Load or reload a checkpoint",
    response_model_exclude_none=True,
    responses=problems(
        Error.UNKNOWN_MODEL,
        Error.CONFLICT,
        Error.UNUSABLE,
        Error.FULL,
        Error.STOPPING,
        Error.NOT_READY,
        Error.LOAD_TIMEOUT,
    ),
)
async def load(request: Request, name: str) -> ModelSummary:
    """Load the folder of this name in SCMRL_MODELS. No request is dropped: during a reload the old
    checkpoint is served until the new one is warm, and stays if the new one cannot be loaded. 409
    if this name is already being loaded."""
    state = state_of(request)
    await state.models.load(name)
    return summary(state.registry, name)


@router.delete(
    "/{name}",
    summary="Unload a checkpoint",
    status_code=204,
    responses=problems(Error.UNKNOWN_MODEL, Error.CONFLICT, Error.FULL, Error.NOT_READY),
)
async def unload(request: Request, name: str) -> Response:
    """Requests in flight are answered. The default checkpoint cannot be unloaded."""
    await state_of(request).models.unload(name)
    return Response(status_code=204)
