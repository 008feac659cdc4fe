"""Paths of requests."""

from __future__ import annotations

from starlette.types import Scope

#: Prefix of the paths of the Open Inference Protocol.
OPEN_INFERENCE = "/v2"


def route_path(scope: Scope) -> str:
    """Return the path as routes see it: without the prefix under which the app is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) :][:1] in ("", "/"):
        return path[len(root) :]
    return path


def is_open_inference(path: str) -> bool:
    """Return whether a path is of the Open Inference Protocol, which has errors of its own."""
    return path == OPEN_INFERENCE or path.startswith(f"{OPEN_INFERENCE}/")
