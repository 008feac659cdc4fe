"""Redirects from paths with a trailing slash to those without.

Starlette's own redirect repeats the client's Host header and loses a prefix that a proxy has
removed from the path. A relative redirect does neither.
"""

from __future__ import annotations

from urllib.parse import quote

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Match, Route

#: All methods: a redirect keeps the method.
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def install(app: FastAPI) -> None:
    """Add the route. Call this last: routes match in the order in which they were added."""

    async def redirect(request: Request) -> Response:
        scope = request.scope
        path = scope["path"][:-1]
        target = {**scope, "path": path}
        others = [r for r in app.router.routes if r is not route]
        if not any(r.matches(target)[0] is not Match.NONE for r in others):
            raise HTTPException(404)
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"../{quote(path.rpartition('/')[2])}{query}")

    route = Route("/{path:path}/", redirect, methods=list(_METHODS), include_in_schema=False)
    app.router.redirect_slashes = False
    app.router.routes.append(route)
