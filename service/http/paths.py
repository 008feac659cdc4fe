"""Paths of requests."""

from __future__ import annotations

import re

from starlette.types import Scope

#: Prefix of the paths of the Open Inference Protocol.
OPEN_INFERENCE = "/v2"
#: In the path of a client whose address of the service ends in /v1 or /v2, to which it adds one.
_TWICE = re.compile(r"/v[12](?=/v[12](/|$))")


def route_path(scope: Scope) -> str:
    """Return the path as routes see it: without the prefix under which the app is mounted."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) :][:1] in ("", "/"):
        return path[len(root) :]
    return path


def one_version(path: str) -> str:
    """Return the path without the first of two versions in a row, as in /v1/v2/models."""
    return _TWICE.sub("", path, count=1)


def is_open_inference(path: str) -> bool:
    """Return whether a path is of the Open Inference Protocol, which has errors of its own.

    Of two versions in a row the client has added the second, and reads the errors of that.
    """
    path = one_version(path)
    return path == OPEN_INFERENCE or path.startswith(f"{OPEN_INFERENCE}/")
