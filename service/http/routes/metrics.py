"""The metrics for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.http.state import state_of

router = APIRouter(include_in_schema=False)  # for operators, not for clients


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Return all metrics, in Prometheus' text format or OpenMetrics by the Accept header."""
    accept = request.headers.get("accept", "")
    content, content_type = await state_of(request).expose(accept)
    return Response(content, headers={"Content-Type": content_type})
