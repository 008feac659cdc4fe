"""Report a completed request of any protocol: metrics, a trace and a log line."""

from __future__ import annotations

import logging
from collections.abc import Callable

from service.errors import Error
from service.observability.logs import Event
from service.request_record import CompletedRequest

log = logging.getLogger("scmrl.access")

#: Status in the log, as in nginx's, of a client that disconnected; it is never sent.
CLIENT_GONE = 499
#: Errors of clients that send no valid HTTP: broken or hostile ones. Logged as warnings.
_INVALID_HTTP = frozenset({Error.MALFORMED, Error.HEAD_TIMEOUT, Error.HEAD_TOO_LARGE})


class RequestLog:
    """Logs completed requests. `measure` is called with each; `trace` is called with it too, and
    returns the id of the trace that it recorded."""

    def __init__(
        self,
        measure: Callable[[CompletedRequest], None],
        trace: Callable[[CompletedRequest], str | None] | None = None,
    ) -> None:
        self._measure = measure
        self._trace = trace

    def complete(self, request: CompletedRequest) -> None:
        """Measure, trace and log a request."""
        self._measure(request)
        trace_id = self._trace(request) if self._trace is not None else None
        log.log(_level(request), _line(request, trace_id))


def _level(request: CompletedRequest) -> int:
    if request.quiet:
        return logging.DEBUG
    is_invalid_http = request.problem is not None and request.problem.error in _INVALID_HTTP
    return logging.WARNING if is_invalid_http else logging.INFO


def _line(request: CompletedRequest, trace_id: str | None) -> Event:
    fields = dict(request.fields)
    if trace_id is not None:
        fields["trace_id"] = trace_id
    in_message = ("id", "method", "path", "status", "duration_ms")
    message = "{method} {path!r} {status} {duration_ms:.1f}ms".format(**fields)
    return Event(message, fields, {n: v for n, v in fields.items() if n not in in_message})
