"""Counters and histograms of requests, for Prometheus: one registry for each app.

Each metric is one function in `_METRICS`, which declares it and returns what counts a request.
A value of the service's state is not counted here but in state_metrics.py. Either has a row in
docs/operations.md and a panel in docker/grafana/scmrl.json, which tests compare with /metrics.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from http import HTTPStatus
from importlib.metadata import version
from platform import python_version

from prometheus_client import CollectorRegistry, Counter, Histogram, Info
from prometheus_client.exposition import choose_encoder, generate_latest
from prometheus_client.registry import Collector

from service.errors import Error
from service.request_record import CompletedRequest

#: Counts a completed request in one metric.
_Observer = Callable[[CompletedRequest], None]

#: Methods with a label value of their own; clients can invent others.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
#: Content type of the format that every Prometheus reads.
_PLAIN = "text/plain; version=0.0.4; charset=utf-8"

_REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_STAGE_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_RATES = (0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1)


class RequestMetrics:
    """Counts completed requests in `registry`.

    Label values are bounded: `route` is a template or "other", `method` a usual one or "other",
    `model` a checkpoint that is served or empty.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._observers = [declare(registry) for declare in _METRICS]

    def measure(self, request: CompletedRequest) -> None:
        """Count a completed request."""
        for observe in self._observers:
            observe(request)


class Metrics:
    """All metrics: those of `collectors`, and the build. Requests may be counted in `registry`."""

    def __init__(self, service_version: str, *collectors: Collector) -> None:
        registry = self.registry = CollectorRegistry()
        for collector in collectors:
            registry.register(collector)
        build = Info("scmrl_build", "Versions of the service and its libraries", registry=registry)
        build.info(
            {"version": service_version, "python": python_version(), "torch": version("torch")}
        )

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the best format that `accept` allows, and its content type."""
        try:
            encode, content_type = choose_encoder(accept)
            return encode(self.registry), content_type
        except (TypeError, ValueError):  # prometheus_client raises them for an unknown version
            return generate_latest(self.registry), _PLAIN


def _requests(registry: CollectorRegistry) -> _Observer:
    counter = Counter(
        "scmrl_requests",
        "Completed requests; status 499: the client disconnected",
        ("route", "method", "status", "model"),
        registry=registry,
    )
    labels = cache(counter.labels)

    def observe(request: CompletedRequest) -> None:
        method = request.method if request.method in _METHODS else OTHER
        labels(_route(request), method, str(request.status), _model(request)).inc()

    return observe


def _request_seconds(registry: CollectorRegistry) -> _Observer:
    histogram = Histogram(
        "scmrl_request_seconds",
        "Time from a request's headers to the end of its response, upload included",
        ("route", "model"),
        buckets=_REQUEST_S,
        registry=registry,
    )
    labels = cache(histogram.labels)

    def observe(request: CompletedRequest) -> None:
        if request.status == HTTPStatus.SWITCHING_PROTOCOLS:  # a WebSocket
            return
        seconds = request.ended - request.started
        labels(_route(request), _model(request)).observe(seconds)

    return observe


def _stage_seconds(registry: CollectorRegistry) -> _Observer:
    histogram = Histogram(
        "scmrl_stage_seconds",
        "Time that a clip spends in one stage",
        ("stage", "model"),
        buckets=_STAGE_S,
        registry=registry,
    )
    labels = cache(histogram.labels)

    def observe(request: CompletedRequest) -> None:
        for record in request.record.parts:
            for stage in record.stages:
                if not stage.failed:
                    labels(stage.name, _model(request)).observe(stage.seconds)

    return observe


def _firing_rate(registry: CollectorRegistry) -> _Observer:
    histogram = Histogram(
        "scmrl_firing_rate",
        "Spikes per neuron and step in the layers that make a stream's tokens, of each request",
        ("stream", "model"),
        buckets=_RATES,
        registry=registry,
    )
    labels = cache(histogram.labels)

    def observe(request: CompletedRequest) -> None:
        for record in request.record.parts:
            for stream, rate in record.firing_rates.items():
                labels(stream, _model(request)).observe(rate)

    return observe


def _degraded(registry: CollectorRegistry) -> _Observer:
    counter = Counter(
        "scmrl_degraded",
        "Responses with fewer time steps than the checkpoint's because of the load",
        ("model",),
        registry=registry,
    )
    labels = cache(counter.labels)

    def observe(request: CompletedRequest) -> None:
        for record in request.record.parts:
            if record.firing_rates:  # the network ran
                labels(_model(request)).inc(record.degraded)

    return observe


def _rejects(registry: CollectorRegistry) -> _Observer:
    counter = Counter(
        "scmrl_rejects",
        "Requests, and clips of several, that were answered with a problem document, by error",
        ("reason", "model"),
        registry=registry,
    )
    for error in Error:  # rate() needs a first sample of 0
        counter.labels(error.name.lower(), "")
    labels = cache(counter.labels)

    def observe(request: CompletedRequest) -> None:
        for problem in (request.problem, *(clip.problem for clip in request.record.clips)):
            if problem is not None:
                labels(problem.error.name.lower(), _model(request)).inc()

    return observe


#: The metrics of requests.
_METRICS: tuple[Callable[[CollectorRegistry], _Observer], ...] = (
    _requests,
    _request_seconds,
    _stage_seconds,
    _firing_rate,
    _degraded,
    _rejects,
)


def _route(request: CompletedRequest) -> str:
    return request.route or OTHER


def _model(request: CompletedRequest) -> str:
    return request.record.model or ""
