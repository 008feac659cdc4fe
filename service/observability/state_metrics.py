"""Metrics that are read from the service's state at each scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.decoding.pool import DecoderPool
from service.inference.model_server import ModelServer
from service.inference.served_model import ServedModel
from service.keys.limit_store import LimitStore
from service.observability import logs
from service.server.connections import REASONS, Connections
from service.streaming.slots import OUTCOMES, PACKET_OUTCOMES, SessionSlots

#: Upper bounds of the buckets of batch sizes; max_batch can be 1024.
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class _ModelGauge:
    """A gauge of each served checkpoint; `old_name` is exported as well, for one release."""

    name: str
    documentation: str
    value: Callable[[ServedModel], float]
    old_name: str | None = None

    def families(self, models: Mapping[str, ServedModel]) -> Iterator[Metric]:
        """Return the gauge's family, and the one of its old name."""
        yield self._family(self.name, self.documentation, models)
        if self.old_name is not None:
            yield self._family(self.old_name, f"Deprecated: use {self.name}", models)

    def _family(self, name: str, documentation: str, models: Mapping[str, ServedModel]) -> Metric:
        family = GaugeMetricFamily(name, documentation, labels=["model"])
        for model_name, model in models.items():
            family.add_metric([model_name], self.value(model))
        return family


#: A row for each gauge of a checkpoint's load.
_MODEL_GAUGES = (
    _ModelGauge(
        "scmrl_queue_length", "Decoded requests in the queue", lambda model: model.batcher.queued
    ),
    _ModelGauge(
        "scmrl_requests_in_flight",
        "Requests in flight: being decoded, queued or running",
        lambda model: model.batcher.in_flight,
        old_name="scmrl_places_taken",
    ),
    _ModelGauge(
        "scmrl_slots",
        "Slots: maximum number of requests in flight",
        lambda model: model.batcher.slots,
        old_name="scmrl_places",
    ),
)
#: Old names of metrics that are still exported.
DEPRECATED = tuple(gauge.old_name for gauge in _MODEL_GAUGES if gauge.old_name is not None)


class ConnectionMetrics(Collector):
    """Collects the state of the decoders, connections and streams of one process."""

    def __init__(
        self, decoders: DecoderPool, connections: Connections, streams: SessionSlots
    ) -> None:
        self._decoders = decoders
        self._connections = connections
        self._streams = streams

    def describe(self) -> list[Metric]:
        """Reserve no names: the state may not exist yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return the current values."""
        family = _restarts()
        family.add_metric(["decode", ""], self._decoders.restarts)
        family.add_metric(["fork_server", ""], self._decoders.fork_server_restarts)
        yield family
        yield _log_lines_lost()
        yield from _connections(self._connections)
        yield from _streams(self._streams)


class LimitMetrics(Collector):
    """Collects how often the shared store of limits did not answer."""

    def __init__(self, store: LimitStore | None) -> None:
        self._store = store

    def describe(self) -> list[Metric]:
        """Reserve no names."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return the current value."""
        yield _limits_alone(self._store)


class WorkerRestarts(Collector):
    """Collects how many HTTP workers were replaced."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count

    def describe(self) -> list[Metric]:
        """Reserve no names: other collectors have the same one."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return the current value."""
        family = _restarts()
        family.add_metric(["http", ""], self._count())
        yield family


class ModelMetrics(Collector):
    """Collects the state of the checkpoints."""

    def __init__(self, models: ModelServer) -> None:
        self._registry = models.registry
        self._files = models.files

    def describe(self) -> list[Metric]:
        """Reserve no names: the state may not exist yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return the current values."""
        models = self._registry.ready
        yield self._ready(models)
        yield _info(models)
        for gauge in _MODEL_GAUGES:
            yield from gauge.families(models)
        yield _batch_sizes(models)
        restarts = _restarts()
        for name, model in models.items():
            restarts.add_metric(["engine", name], model.batcher.restarts)
        yield restarts
        yield _engine_errors(models)
        yield self._files_intact(models)
        yield from _memory(models)

    def _ready(self, models: Mapping[str, ServedModel]) -> Metric:
        family = GaugeMetricFamily(
            "scmrl_model_ready",
            "Whether a checkpoint is loaded and every device has its worker",
            labels=["model"],
        )
        for name in self._registry.names:
            ready = name in models and models[name].batcher.has_all_workers
            family.add_metric([name], float(ready))
        return family

    def _files_intact(self, models: Mapping[str, ServedModel]) -> Metric:
        family = GaugeMetricFamily(
            "scmrl_model_files_intact",
            "Whether a checkpoint's files are unchanged since it was loaded",
            labels=["model"],
        )
        for name in models:
            family.add_metric([name], float(self._files.is_intact(name)))
        return family


def _restarts() -> CounterMetricFamily:
    return CounterMetricFamily(
        "scmrl_worker_restarts",
        "Workers that were replaced after they died or hung: engine threads, decoding processes, "
        "the fork server that starts these, and HTTP workers",
        labels=["kind", "model"],
    )


def _engine_errors(models: Mapping[str, ServedModel]) -> Metric:
    family = CounterMetricFamily(
        "scmrl_engine_errors",
        "Batches that failed, and times that a device ran out of memory",
        labels=["kind", "model"],
    )
    for name, model in models.items():
        family.add_metric(["failed", name], model.batcher.failures)
        family.add_metric(["out_of_memory", name], model.batcher.out_of_memory_count)
    return family


def _log_lines_lost() -> Metric:
    return CounterMetricFamily(
        "scmrl_log_lines_lost",
        "Log lines that could not be written, for example because of a full disk",
        value=logs.lost(),
    )


def _limits_alone(store: LimitStore | None) -> Metric:
    return CounterMetricFamily(
        "scmrl_limit_store_unanswered",
        "Calls to the shared store of limits that failed, so that this process decided alone",
        value=0 if store is None else store.unanswered,
    )


def _connections(connections: Connections) -> Iterator[Metric]:
    yield GaugeMetricFamily("scmrl_connections", "Open HTTP connections", value=len(connections))
    family = CounterMetricFamily(
        "scmrl_connections_ended",
        "Connections that the service closed early, by reason",
        labels=["reason"],
    )
    for reason in REASONS:
        family.add_metric([reason], connections.ended[reason])
    yield family


def _streams(streams: SessionSlots) -> Iterator[Metric]:
    yield GaugeMetricFamily("scmrl_stream_sessions", "Open live streams", value=len(streams))
    yield GaugeMetricFamily(
        "scmrl_stream_windows_waiting",
        "Live streams whose window is due and waits for its turn",
        value=streams.turns.waiting,
    )
    family = CounterMetricFamily(
        "scmrl_stream_windows",
        "Windows of live streams that have ended, by outcome",
        labels=["outcome"],
    )
    for outcome in OUTCOMES:
        family.add_metric([outcome], streams.windows[outcome])
    yield family
    yield GaugeMetricFamily(
        "scmrl_stream_decoders",
        "Open live streams that have a decoding process of their own",
        value=streams.decoders,
    )
    yield CounterMetricFamily(
        "scmrl_stream_decoders_lost",
        "Decoding processes of live streams that died, hung or exceeded a limit",
        value=streams.decoders_lost,
    )
    family = CounterMetricFamily(
        "scmrl_stream_packets",
        "Packets of H.264 and Opus of live streams that have ended, by outcome",
        labels=["outcome"],
    )
    for outcome in PACKET_OUTCOMES:
        family.add_metric([outcome], streams.packets[outcome])
    yield family


def _info(models: Mapping[str, ServedModel]) -> Metric:
    family = InfoMetricFamily(
        "scmrl_model",
        "Version of a checkpoint, the path that computes it and its maximum batch",
        labels=["model"],
    )
    for name, model in models.items():
        paths = {engine.path for engine in model.engines}  # none while a worker is replaced
        largest = {engine.max_batch for engine in model.engines}
        labels = {
            "version": model.card.version,
            "path": ",".join(sorted(paths)),
            "max_batch": ",".join(map(str, sorted(largest))),
        }
        family.add_metric([name], labels)
    return family


def _batch_sizes(models: Mapping[str, ServedModel]) -> Metric:
    family = HistogramMetricFamily("scmrl_batch_size", "Requests per batch", labels=["model"])
    for name, model in models.items():
        counts = model.batcher.batches.copy()
        lower_bounds = (0, *_SIZES)
        in_bucket = [
            sum(count for size, count in counts.items() if lower < size <= upper)
            for lower, upper in zip(lower_bounds, _SIZES, strict=False)
        ]
        buckets = [(f"{b:.1f}", n) for b, n in zip(_SIZES, accumulate(in_bucket), strict=True)]
        total = sum(size * count for size, count in counts.items())
        family.add_metric([name], [*buckets, ("+Inf", counts.total())], total)
    return family


def _memory(models: Mapping[str, ServedModel]) -> Iterator[Metric]:
    used = GaugeMetricFamily(
        "scmrl_device_memory_bytes", "Memory of a device that the service uses", labels=["device"]
    )
    limit = GaugeMetricFamily(
        "scmrl_device_memory_limit_bytes", "Memory that is available to it", labels=["device"]
    )
    # Engines on one device are in one process.
    engines = {str(e.device): e for model in models.values() for e in model.engines}
    for device, engine in sorted(engines.items()):
        usage = engine.memory
        if usage is not None:
            used.add_metric([device], usage.used)
            limit.add_metric([device], usage.limit)
    yield from (used, limit)
