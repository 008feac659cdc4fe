"""The page's routes: `/`, its files under `/page/`, and its limits."""

from __future__ import annotations

from fastapi import FastAPI, Request
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from service.http.page.static_files import read_files
from service.settings import Settings

#: The file that `/` answers with.
_INDEX = "index.html"


class PageSettings(BaseModel):
    """The limits of the service, so that the page offers only what is accepted."""

    version: str
    max_steps: int
    max_file_bytes: int
    max_duration_s: float


def install(app: FastAPI, settings: Settings) -> None:
    """Add the page; where it is switched off, `/` redirects to the description of the API."""
    if not settings.page:

        @app.get("/", include_in_schema=False)
        async def root() -> RedirectResponse:
            return RedirectResponse("docs")

        return

    files = read_files()

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return files[_INDEX].respond(request)

    @app.get("/page/settings.json", include_in_schema=False)
    async def page_settings() -> PageSettings:
        return PageSettings(
            version=app.version,
            max_steps=settings.max_steps,
            max_file_bytes=settings.max_file_bytes,
            max_duration_s=settings.max_duration_s,
        )

    @app.get("/page/{name:path}", include_in_schema=False)
    async def page_file(request: Request, name: str) -> Response:
        if name not in files or name == _INDEX:
            raise HTTPException(404)
        return files[name].respond(request)
