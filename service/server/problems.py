"""Problems that a connection detects itself, before any app is called."""

from __future__ import annotations

from service.errors import Error, Problem
from service.server.limits import ConnectionLimits

#: Key of the problem in the state of a refused request's scope.
PROBLEM = "refusal"


def malformed(reason: str) -> Problem:
    return Problem(Error.MALFORMED, f"Malformed HTTP/1.1 request (RFC 9112): {reason}.")


def head_too_large(limits: ConnectionLimits) -> Problem:
    return Problem(
        Error.HEAD_TOO_LARGE,
        f"The request line and headers are larger than {limits.max_head_bytes} bytes, or there are "
        f"more than {limits.max_headers} headers.",
    )


def head_too_late(limits: ConnectionLimits) -> Problem:
    return Problem(
        Error.HEAD_TIMEOUT,
        f"The request headers have not arrived within {limits.head_timeout_s:g} s "
        "(SCMRL_HEAD_TIMEOUT_S).",
    )
