"""Authentication: the check of API keys in front of every route.

If API keys are set, every path outside OPEN needs one. That includes /metrics: Prometheus can send
a key, and the metrics disclose traffic. Every path under ADMIN needs the admin key, and is 404 if
none is set. The admin key is also accepted wherever an API key is.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import Error, Problem
from service.http.error_responses import not_found, send_problem
from service.http.paths import is_open_inference, route_path
from service.http.problem_document import inference_errors, problems
from service.keys.admission import KeyAdmission
from service.keys.key_file import Keys

#: Paths that need no key: health checks, and the pages on which a key is entered. `/*` matches
#: every file of the folder.
OPEN = (
    "/", "/page/*", "/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/docs",
    "/docs/static/*", "/openapi.json",
)  # fmt: skip

#: Prefix of the paths that need the admin key. Not `/v1/admin/`: a route's pattern also matches
#: `/v1/admin` and, since `$` does, a trailing newline.
ADMIN = "/v1/admin"

#: Begin of the subprotocol of a WebSocket that carries a key; the rest is its base64url.
KEY_PROTOCOL = "scmrl.key."


class KeyCheck:
    """Check a request's key before its body is read, and note it: `request.state.key`, and its name
    for the log.

    401 without a known key, 403 with an API key where the admin key is needed, 429 with Retry-After
    beyond the key's rate limit. WebSockets are checked when they are opened.
    """

    def __init__(self, app: ASGIApp, admission: KeyAdmission) -> None:
        self.app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        try:
            await self._admit(scope)
        except Problem as problem:
            needs_key = problem.error is Error.KEY_NEEDED
            challenge = {"WWW-Authenticate": "Bearer"} if needs_key else None
            await send_problem(problem, scope, receive, send, challenge)
            return
        await self.app(scope, receive, send)

    async def _admit(self, scope: Scope) -> None:
        """Raises Problem KEY_NEEDED, KEY_REFUSED, RATE_LIMIT or NOT_FOUND."""
        path, keys = route_path(scope), self._admission.keys
        is_admin = path.startswith(ADMIN)
        if is_admin and keys.admin is None:
            raise not_found(path)
        if not is_admin and (is_open(path) or not keys.api):
            return

        key = scope["state"]["key"] = self._admission.find(_secret(scope))
        scope["state"]["record"].notes["key"] = key.name
        if is_admin and key is not keys.admin:
            detail = f"{key.name!r} is an API key; paths under {ADMIN} need the admin key."
            raise Problem(Error.KEY_REFUSED, detail)
        await self._admission.count(key)


def _secret(scope: Scope) -> bytes | None:
    secret = _bearer(scope)
    if secret is None and scope["type"] == "websocket":
        return _subprotocol_key(scope["subprotocols"])
    return secret


def _bearer(scope: Scope) -> bytes | None:
    values: list[bytes] = [v for name, v in scope["headers"] if name.lower() == b"authorization"]
    scheme, _, secret = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
    return secret.strip(b" ") if scheme.lower() == b"bearer" else None


def _subprotocol_key(offered: Sequence[str]) -> bytes | None:
    """Return the key of the subprotocol KEY_PROTOCOL + base64url, which is all that a browser can
    send with a WebSocket; None without one or where it is no base64url."""
    for name in offered:
        if name.startswith(KEY_PROTOCOL):
            encoded = name.removeprefix(KEY_PROTOCOL)
            try:
                return base64.b64decode(encoded + "=" * (-len(encoded) % 4), b"-_", validate=True)
            except ValueError:
                return None
    return None


def is_open(path: str) -> bool:
    """Return whether a path needs no key."""
    return path in OPEN or any(
        path.startswith(folder[:-1]) for folder in OPEN if folder.endswith("/*")
    )


def describe(schema: dict[str, Any], keys: Keys) -> None:
    """Add to an OpenAPI description which paths need a key, so that /docs has a field for it."""
    needed = False
    for path, operations in list(schema["paths"].items()):
        is_admin = path.startswith(ADMIN)
        if is_admin and keys.admin is None:
            del schema["paths"][path]
            continue
        if not is_admin and (is_open(path) or not keys.api):
            continue
        needed = True
        errors = (Error.KEY_NEEDED, Error.KEY_REFUSED if is_admin else Error.RATE_LIMIT)
        responses = inference_errors if is_open_inference(path) else problems
        for operation in operations.values():
            operation["security"] = [{"key": []}]
            for status, answer in responses(*errors).items():
                operation["responses"].setdefault(str(status), answer)
    if needed:
        schemes = schema["components"].setdefault("securitySchemes", {})
        schemes["key"] = {"type": "http", "scheme": "bearer"}
