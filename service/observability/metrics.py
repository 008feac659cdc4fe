"""Counters and histograms of requests, for Prometheus: one registry for each app."""

from __future__ import annotations

from importlib.metadata import version
from platform import python_version

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector
from prometheus_client.exposition import choose_encoder, generate_latest
from prometheus_client.registry import Collector

from service.errors import Error
from service.request_record import CompletedRequest, RequestRecord

#: Methods with a label value of their own; clients can invent others.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
#: Content type of the format that every Prometheus reads.
_PLAIN = "text/plain; version=0.0.4; charset=utf-8"

_REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_STAGE_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_RATES = (0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1)


class Metrics:
    """Counts completed requests. `state_metrics` are read from the service's state at each scrape.

    Label values are bounded: `route` is a template or "other", `method` a usual one or "other",
    `model` a checkpoint that is served or empty.
    """

    def __init__(self, state_metrics: Collector, service_version: str) -> None:
        registry = self._registry = CollectorRegistry()
        registry.register(state_metrics)
        ProcessCollector(registry=registry)
        build = Info("scmrl_build", "Versions of the service and its libraries", registry=registry)
        build.info(
            {"version": service_version, "python": python_version(), "torch": version("torch")}
        )
        self._requests = Counter(
            "scmrl_requests",
            "Completed requests; status 499: the client disconnected",
            ("route", "method", "status", "model"),
            registry=registry,
        )
        self._request_s = Histogram(
            "scmrl_request_seconds",
            "Time from a request's headers to the end of its response, upload included",
            ("route", "model"),
            buckets=_REQUEST_S,
            registry=registry,
        )
        self._stage_s = Histogram(
            "scmrl_stage_seconds",
            "Time that a request spends in one stage",
            ("stage", "model"),
            buckets=_STAGE_S,
            registry=registry,
        )
        self._firing_rate = Histogram(
            "scmrl_firing_rate",
            "Spikes per neuron and step in the layers that make a stream's tokens, of each request",
            ("stream", "model"),
            buckets=_RATES,
            registry=registry,
        )
        self._degraded = Counter(
            "scmrl_degraded",
            "Responses with fewer time steps than the checkpoint's because of the load",
            ("model",),
            registry=registry,
        )
        self._rejects = Counter(
            "scmrl_rejects",
            "Requests that were answered with a problem document, by error",
            ("reason", "model"),
            registry=registry,
        )
        for error in Error:  # rate() needs a first sample of 0
            self._rejects.labels(_reason(error), "")

    def measure(self, request: CompletedRequest) -> None:
        """Count a completed request."""
        route = request.route or OTHER
        method = request.method if request.method in _METHODS else OTHER
        model = request.record.model or ""
        self._requests.labels(route, method, str(request.status), model).inc()
        self._request_s.labels(route, model).observe(request.ended - request.started)
        if request.problem is not None:
            self._rejects.labels(_reason(request.problem.error), model).inc()
        self._measure_work(request.record, model)

    def _measure_work(self, record: RequestRecord, model: str) -> None:
        for stage in record.stages:
            if not stage.failed:
                self._stage_s.labels(stage.name, model).observe(stage.seconds)
        if record.firing_rates:  # the network ran
            self._degraded.labels(model).inc(record.degraded)
        for stream, rate in record.firing_rates.items():
            self._firing_rate.labels(stream, model).observe(rate)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the best format that `accept` allows, and its content type."""
        try:
            encode, content_type = choose_encoder(accept)
            return encode(self._registry), content_type
        except (TypeError, ValueError):  # prometheus_client raises them for an unknown version
            return generate_latest(self._registry), _PLAIN


def _reason(error: Error) -> str:
    return error.name.lower()
