"""OpenTelemetry traces: a span for each request and for each stage of its work.

Made from the request record when a request is complete, and only if the standard OTEL_* variables
are set: otherwise nothing is imported and nothing is slower.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from service.request_record import CompletedRequest, RequestRecord, Stage

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

log = logging.getLogger("scmrl.traces")

#: Variables that switch traces on, unless the exporter is "none".
_EXPORTER = "OTEL_TRACES_EXPORTER"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
#: Longest wait for the collector at the end of the service, in seconds: less than that for which an
#: HTTP worker is waited for.
_STOP_S = 2.0
#: The protocol of the exporter in `scmrl[otel]`.
_PROTOCOL = "http/protobuf"


def from_environment(version: str, environ: Mapping[str, str] = os.environ) -> Traces | None:
    """Return a recorder of traces; None if no variable enables them or, logged, if it fails."""
    variable = _variable_set(environ)
    if variable is None:
        return None
    try:
        provider = _provider(version, environ)
    except ImportError as exc:
        log.error(
            "%s enables traces, but %s is not installed: pip install 'scmrl[otel]'",
            variable, exc.name,
        )  # fmt: skip
        return None
    if provider is None:
        return None
    log.info("traces are enabled (%s)", variable)
    return Traces(provider)


def _variable_set(environ: Mapping[str, str]) -> str | None:
    """Return the variable that switches traces on, or None."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if environ.get(_EXPORTER) == "none":
        return None
    return next((name for name in (_EXPORTER, *_ENDPOINTS) if environ.get(name)), None)


def _provider(version: str, environ: Mapping[str, str]) -> TracerProvider | None:
    """Return a provider, None if no exporter is known. Raises ImportError without OpenTelemetry."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    names = [name.strip() for name in (environ.get(_EXPORTER) or "otlp").split(",")]
    exporters = [exporter for name in names if (exporter := _exporter(name, environ))]
    if not exporters:
        return None
    attributes = {"service.version": version}
    if "service.name=" not in environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        attributes["service.name"] = environ.get("OTEL_SERVICE_NAME") or "scmrl"
    # The service shuts it down after the last request, not the interpreter at exit.
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _exporter(name: str, environ: Mapping[str, str]) -> SpanExporter | None:
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    if name != "otlp":
        log.error("%s is %r; can be otlp, console or none", _EXPORTER, name)
        return None
    for variable in _PROTOCOLS:
        if environ.get(variable, _PROTOCOL) != _PROTOCOL:
            log.error("%s is %r; can be %s only", variable, environ[variable], _PROTOCOL)
            return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


class Traces:
    """Makes spans of completed requests; a thread of the provider sends them."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("scmrl")

    def record(self, request: CompletedRequest) -> str | None:
        """Record the spans of a request and of its stages; return the id of their trace.

        The trace is the caller's if it sent one (W3C traceparent, or as OTEL_PROPAGATORS says).
        Health checks and scrapes are not recorded.
        """
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, format_trace_id, set_span_in_context

        if request.quiet:
            return None
        clock = time.time_ns() - round(1e9 * time.perf_counter())  # of perf_counter, in ns
        route = request.route
        span = self._tracer.start_span(
            f"{request.method} {route}" if route else request.method,
            context=extract(dict(request.headers)),
            kind=SpanKind.SERVER,
            attributes=_attributes(request),
            start_time=clock + round(1e9 * request.started),
        )
        if not span.is_recording():
            return None
        context = set_span_in_context(span)
        for record in request.record.parts:
            for stage in record.stages:
                self._stage(stage, record, _error(request, record), context, clock)
        if request.status >= 500:
            _fail(span, _error(request, request.record))
        span.end(clock + round(1e9 * request.ended))
        return format_trace_id(span.get_span_context().trace_id)

    def _stage(
        self, stage: Stage, record: RequestRecord, error: str, context: Context, clock: int
    ) -> None:
        span = self._tracer.start_span(
            stage.name,
            context=context,
            attributes=_work_attributes(record),
            start_time=clock + round(1e9 * stage.started),
        )
        if stage.failed:
            _fail(span, error)
        span.end(clock + round(1e9 * stage.ended))

    def stop(self) -> None:
        """Send the remaining spans, for `_STOP_S` at most: the collector may not answer."""
        sending = threading.Thread(target=self._provider.shutdown, name="scmrl-traces", daemon=True)
        sending.start()
        sending.join(_STOP_S)
        if sending.is_alive():
            log.warning(
                "the last spans are lost: the collector has not answered within %g s", _STOP_S
            )


def _attributes(request: CompletedRequest) -> dict[str, str | int]:
    """Return attributes by OpenTelemetry's conventions, and our own under `scmrl.`."""
    attributes: dict[str, str | int] = {
        "http.request.method": request.method,
        "http.response.status_code": request.status,
        "url.path": request.path,
        "scmrl.request_id": request.id,
    }
    if request.route is not None:
        attributes["http.route"] = request.route
    if request.problem is not None:
        attributes["scmrl.detail"] = request.problem.detail
    if request.status >= 400:
        attributes["error.type"] = _error(request, request.record)
    return attributes | _work_attributes(request.record)


def _work_attributes(record: RequestRecord) -> dict[str, str | int]:
    """Return checkpoint, time steps and batch size, as far as they are known."""
    notes, model = record.notes, record.model
    named = {"model": model, "steps": notes.get("steps"), "batch_size": notes.get("batch")}
    return {f"scmrl.{name}": value for name, value in named.items() if value is not None}


def _error(request: CompletedRequest, record: RequestRecord) -> str:
    problem = record.problem or request.problem
    return problem.error.kind if problem else str(request.status)


def _fail(span: Span, description: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_status(Status(StatusCode.ERROR, description))
