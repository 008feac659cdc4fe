"""Problems that a connection detects itself, before any app is called."""

from __future__ import annotations

from service.errors import Error, Problem
from service.server.limits import ConnectionLimits

#: Key of the problem in the state of a refused request's scope.
PROBLEM = "refusal"


def malformed(why: str) -> Problem:
    return Problem(Error.MALFORMED, f"The request is not HTTP/1.1 as RFC 9112 has it: {why}.")


def head_too_large(limits: ConnectionLimits) -> Problem:
    return Problem(
        Error.HEAD_TOO_LARGE,
        f"The request's head is larger than {limits.max_head_bytes} bytes or has more than "
        f"{limits.max_headers} header lines.",
    )


def head_too_late(limits: ConnectionLimits) -> Problem:
    return Problem(
        Error.HEAD_TIMEOUT,
        f"The request's head has not arrived within {limits.head_timeout_s:g} s "
        "(SCMRL_HEAD_TIMEOUT_S).",
    )
