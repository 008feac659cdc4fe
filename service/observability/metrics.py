"""What is counted and timed, for Prometheus: one registry for each app."""

from __future__ import annotations

from importlib.metadata import version
from platform import python_version

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, ProcessCollector
from prometheus_client.exposition import choose_encoder, generate_latest
from prometheus_client.registry import Collector

from service.errors import Error
from service.request_record import Account, Answered

#: Methods with a label of their own: a client may make up others.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER = "other"
#: Content type of what every Prometheus reads.
_PLAIN = "text/plain; version=0.0.4; charset=utf-8"

_REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_STAGE_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_RATES = (0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1)


class Metrics:
    """Counts each answered request; what is read from live state comes from `live` at each scrape.

    Label values are bounded: `route` is a template or "other", `method` a usual one or "other",
    `model` a checkpoint that is served or empty.
    """

    def __init__(self, live: Collector, service_version: str) -> None:
        registry = self._registry = CollectorRegistry()
        registry.register(live)
        ProcessCollector(registry=registry)
        build = Info("scmrl_build", "Versions of the service and its libraries", registry=registry)
        build.info(
            {"version": service_version, "python": python_version(), "torch": version("torch")}
        )
        self._requests = Counter(
            "scmrl_requests",
            "Requests that were answered; status 499: the client had gone",
            ("route", "method", "status", "model"),
            registry=registry,
        )
        self._request_s = Histogram(
            "scmrl_request_seconds",
            "Time from a request's head to its answer's end, with its upload",
            ("route", "model"),
            buckets=_REQUEST_S,
            registry=registry,
        )
        self._stage_s = Histogram(
            "scmrl_stage_seconds",
            "Time of a request in one stage of its work",
            ("stage", "model"),
            buckets=_STAGE_S,
            registry=registry,
        )
        self._firing_rate = Histogram(
            "scmrl_firing_rate",
            "Spikes per neuron and step of the layers that make a stream's tokens, of each request",
            ("stream", "model"),
            buckets=_RATES,
            registry=registry,
        )
        self._degraded = Counter(
            "scmrl_degraded",
            "Answers of fewer time steps than the checkpoint's, because of the load",
            ("model",),
            registry=registry,
        )
        self._rejects = Counter(
            "scmrl_rejects",
            "Requests that were answered with a problem, by its kind",
            ("reason", "model"),
            registry=registry,
        )
        for error in Error:  # a rate needs the 0 that it began with
            self._rejects.labels(_reason(error), "")

    def measure(self, answered: Answered) -> None:
        """Count a request that has been answered."""
        route = answered.route or OTHER
        method = answered.method if answered.method in _METHODS else OTHER
        model = answered.account.model or ""
        self._requests.labels(route, method, str(answered.status), model).inc()
        self._request_s.labels(route, model).observe(answered.ended - answered.started)
        if answered.problem is not None:
            self._rejects.labels(_reason(answered.problem.error), model).inc()
        self._work(answered.account, model)

    def _work(self, account: Account, model: str) -> None:
        for stage in account.stages:
            if not stage.failed:
                self._stage_s.labels(stage.name, model).observe(stage.seconds)
        if account.firing_rates:  # it was run
            self._degraded.labels(model).inc(account.degraded)
        for stream, rate in account.firing_rates.items():
            self._firing_rate.labels(stream, model).observe(rate)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics, as the best that an Accept header takes, and the content type of that."""
        try:
            encode, content_type = choose_encoder(accept)
            return encode(self._registry), content_type
        except (TypeError, ValueError):  # prometheus_client's, of a version that is none
            return generate_latest(self._registry), _PLAIN


def _reason(error: Error) -> str:
    return error.name.lower()
