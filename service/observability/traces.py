"""OpenTelemetry traces: a span for each request and for each stage of its work.

Made only where the standard OTEL_* variables ask for it, and from what was measured, when the
request has been answered: nothing is imported and nothing is slower without.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from service.request_record import Answered, Stage

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

log = logging.getLogger("scmrl.traces")

#: Any of these with a value asks for traces, unless the exporter is "none".
_EXPORTER = "OTEL_TRACES_EXPORTER"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
#: The one that the exporter of `scmrl[otel]` speaks.
_SPOKEN = "http/protobuf"


def from_environment(version: str, environ: Mapping[str, str] = os.environ) -> Traces | None:
    """What records traces; None where none are asked for, or they cannot be had: the log says."""
    variable = _asked_by(environ)
    if variable is None:
        return None
    try:
        provider = _provider(version, environ)
    except ImportError as exc:
        log.error(
            "%s asks for traces, but there is no %s: pip install 'scmrl[otel]'", variable, exc.name
        )
        return None
    if provider is None:
        return None
    log.info("traces are sent, as %s asks", variable)
    return Traces(provider)


def _asked_by(environ: Mapping[str, str]) -> str | None:
    """The variable that asks for traces, or None."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if environ.get(_EXPORTER) == "none":
        return None
    return next((name for name in (_EXPORTER, *_ENDPOINTS) if environ.get(name)), None)


def _provider(version: str, environ: Mapping[str, str]) -> TracerProvider | None:
    """Raises ImportError where OpenTelemetry is not there; None where no exporter is known."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    names = [name.strip() for name in (environ.get(_EXPORTER) or "otlp").split(",")]
    exporters = [found for name in names if (found := _exporter(name, environ))]
    if not exporters:
        return None
    attributes = {"service.version": version}
    if "service.name=" not in environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        attributes["service.name"] = environ.get("OTEL_SERVICE_NAME") or "scmrl"
    # The caller says when it ends: after its last request, not when the interpreter does.
    provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def _exporter(name: str, environ: Mapping[str, str]) -> SpanExporter | None:
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    if name != "otlp":
        log.error("%s is %r: otlp, console and none are known", _EXPORTER, name)
        return None
    for variable in _PROTOCOLS:
        if environ.get(variable, _SPOKEN) != _SPOKEN:
            log.error("%s is %r: only %s is spoken", variable, environ[variable], _SPOKEN)
            return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


class Traces:
    """Makes spans of answered requests; a thread of the provider's sends them."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("scmrl")

    def record(self, answered: Answered) -> str | None:
        """The request's span and its stages'; the id of their trace where that is recorded.

        The trace is the caller's where it sent one (W3C traceparent, or as OTEL_PROPAGATORS
        says). Supervisors' requests leave none.
        """
        from opentelemetry.propagate import extract
        from opentelemetry.trace import SpanKind, format_trace_id, set_span_in_context

        if answered.quiet:
            return None
        clock = time.time_ns() - round(1e9 * time.perf_counter())  # ns, from perf_counter's
        route = answered.route
        span = self._tracer.start_span(
            f"{answered.method} {route}" if route else answered.method,
            context=extract(dict(answered.headers)),
            kind=SpanKind.SERVER,
            attributes=_attributes(answered),
            start_time=clock + round(1e9 * answered.started),
        )
        if not span.is_recording():
            return None
        within = set_span_in_context(span)
        for stage in answered.account.stages:
            self._stage(stage, answered, within, clock)
        if answered.status >= 500:
            _fail(span, _error(answered))
        span.end(clock + round(1e9 * answered.ended))
        return format_trace_id(span.get_span_context().trace_id)

    def _stage(self, stage: Stage, answered: Answered, within: Context, clock: int) -> None:
        span = self._tracer.start_span(
            stage.name,
            context=within,
            attributes=_work(answered),
            start_time=clock + round(1e9 * stage.started),
        )
        if stage.failed:
            _fail(span, _error(answered))
        span.end(clock + round(1e9 * stage.ended))

    def stop(self) -> None:
        """Send what has not been sent yet; takes seconds where nobody receives it."""
        self._provider.shutdown()


def _attributes(answered: Answered) -> dict[str, str | int]:
    """By OpenTelemetry's conventions, and our own under `scmrl.`."""
    attributes: dict[str, str | int] = {
        "http.request.method": answered.method,
        "http.response.status_code": answered.status,
        "url.path": answered.path,
        "scmrl.request_id": answered.id,
    }
    if answered.route is not None:
        attributes["http.route"] = answered.route
    if answered.problem is not None:
        attributes["scmrl.detail"] = answered.problem.detail
    if answered.status >= 400:
        attributes["error.type"] = _error(answered)
    return attributes | _work(answered)


def _work(answered: Answered) -> dict[str, str | int]:
    """Checkpoint, time steps and batch size, as far as the request came."""
    notes, model = answered.account.notes, answered.account.model
    named = {"model": model, "steps": notes.get("steps"), "batch_size": notes.get("batch")}
    return {f"scmrl.{name}": value for name, value in named.items() if value is not None}


def _error(answered: Answered) -> str:
    problem = answered.problem
    return problem.error.name.lower() if problem else str(answered.status)


def _fail(span: Span, why: str) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_status(Status(StatusCode.ERROR, why))
