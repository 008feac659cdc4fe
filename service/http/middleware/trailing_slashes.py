"""Addresses with a slash at their end lead to those without one.

Starlette's own redirect names the host that the client's Host header names, and leaves out a
prefix that a proxy has taken off the path. A relative one does neither.
"""

from __future__ import annotations

from urllib.parse import quote

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Match, Route

#: As many as there are: a redirect keeps the method.
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def install(app: FastAPI) -> None:
    """Add the route. To be called when all others have been added, which come first."""

    async def redirect(request: Request) -> Response:
        scope = request.scope
        path = scope["path"][:-1]
        target = {**scope, "path": path}
        known = [r for r in app.router.routes if r is not route]
        if not any(r.matches(target)[0] is not Match.NONE for r in known):
            raise HTTPException(404)
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"../{quote(path.rpartition('/')[2])}{query}")

    route = Route("/{path:path}/", redirect, methods=list(_METHODS), include_in_schema=False)
    app.router.redirect_slashes = False
    app.router.routes.append(route)
