"""The page's files, in memory, with the headers that browsers need."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.requests import Request
from starlette.responses import Response

#: Media types by suffix. Not of `mimetypes`, which reads files of the machine: with some of them
#: `.js` is text/plain, which browsers do not run.
MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".mp4": "video/mp4",
    ".svg": "image/svg+xml",
    ".webm": "video/webm",
    ".bs2": "application/octet-stream",
    ".npz": "application/octet-stream",
}

#: Content security policy of the page. Scripts and styles are files: inline ones do not run, and no
#: text that is assigned as HTML does; its one worker is of the policy scmrl-worker. `blob:` is a
#: clip that was chosen or recorded; `data:` is an overlay of an answer.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types scmrl-worker",
    )
)

_ON_PAGES = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(self), geolocation=()",
}
#: A browser keeps a file, and asks each time whether it has changed: after an update no page runs
#: with the scripts of the last one.
_REVALIDATED = "no-cache"


@dataclass(frozen=True)
class StaticFile:
    """One file of the page."""

    name: str
    content: bytes

    @property
    def media_type(self) -> str:
        return MEDIA_TYPES[f".{self.name.rpartition('.')[2]}"]

    @cached_property
    def etag(self) -> str:
        """A strong validator: the content alone, since installing a wheel changes times."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:32]}"'

    def respond(self, request: Request) -> Response:
        """Return the file, or 304 where the client has it."""
        headers = {"ETag": self.etag, "Cache-Control": _REVALIDATED}
        if self.name.endswith(".html"):
            headers |= _ON_PAGES
        if _has(request.headers.get("if-none-match", ""), self.etag):
            return Response(status_code=304, headers=headers)
        return Response(self.content, headers=headers | {"Content-Type": self.media_type})


def _has(validators: str, etag: str) -> bool:
    """Return whether If-None-Match names the file, by weak comparison (RFC 9110, 13.1.2)."""
    names = [name.strip().removeprefix("W/") for name in validators.split(",")]
    return etag in names or names == ["*"]


def read_files() -> Mapping[str, StaticFile]:
    """Return the files by their path below `static`."""
    root = files("service.http.page") / "static"
    return {name: StaticFile(name, entry.read_bytes()) for name, entry in _walk(root, "")}


def _walk(folder: Traversable, prefix: str) -> list[tuple[str, Traversable]]:
    files: list[tuple[str, Traversable]] = []
    for entry in folder.iterdir():
        name = f"{prefix}{entry.name}"
        if entry.is_dir():
            files += _walk(entry, f"{name}/")
        elif f".{name.rpartition('.')[2]}" in MEDIA_TYPES:
            files.append((name, entry))
    return files
