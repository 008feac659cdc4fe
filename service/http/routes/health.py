"""Health checks: liveness and readiness."""

from __future__ import annotations

from fastapi import APIRouter, Request

from service.classification.schemas import Health, Readiness
from service.errors import Error, Problem
from service.http.problem_document import problems
from service.http.state import state_of

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="The process is alive", responses=problems(Error.NOT_READY))
async def healthz(request: Request) -> Health:
    """200 while the process lives, independent of the checkpoints; 503 where another one, which
    runs the networks, does not respond."""
    await state_of(request).models.check_alive()
    return Health(status="alive")


@router.get(
    "/readyz", summary="The default checkpoint can answer", responses=problems(Error.NOT_READY)
)
async def readyz(request: Request) -> Readiness:
    """200 once the default checkpoint is warmed up and a small clip has been decoded, and while its
    workers and the decoding processes work; else 503 with the reason."""
    state = state_of(request)
    reason = await state.not_ready_reason()
    if reason:
        raise Problem(Error.NOT_READY, reason, retry_after_s=1)
    layers = state.decoders.sandbox_layers
    return Readiness(status="ready", sandbox=layers.names if layers is not None else [])
