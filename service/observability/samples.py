"""Metrics of several processes as one: samples as JSON, and their sums."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

#: Metrics of a process that are not added up: the value of the first process is exported.
_OF_FIRST_PROCESS = frozenset({"process_start_time_seconds", "process_max_fds"})


def dump(collector: Collector) -> str:
    """Return all samples of a collector, as JSON."""
    return json.dumps(
        [
            (
                family.name,
                family.documentation,
                family.type,
                family.unit,
                [(s.name, s.labels, s.value) for s in family.samples],
            )
            for family in collector.collect()
        ]
    )


def load(dumped: str) -> list[Metric]:
    """Return the metrics of a dump."""
    metrics = []
    for name, documentation, kind, unit, samples in json.loads(dumped):
        metric = Metric(name, documentation, kind, unit)
        for sample in samples:
            metric.add_sample(*sample)
        metrics.append(metric)
    return metrics


def without_gauges(dumped: str) -> str:
    """Return a dump without gauges, whose values end with their process; counts stay."""
    families = [family for family in json.loads(dumped) if family[2] != "gauge"]
    return json.dumps(families)


def add_up(metrics: Iterable[Metric]) -> list[Metric]:
    """Return one metric for each name, whose samples are the sums over all of its name.

    Times of creation are the earliest.
    """
    families: dict[str, Metric] = {}
    sums: defaultdict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = defaultdict(dict)
    for metric in metrics:
        families.setdefault(metric.name, metric)
        of_family = sums[metric.name]
        for sample in metric.samples:
            key = sample.name, tuple(sample.labels.items())
            total = of_family.get(key)
            if total is None:
                of_family[key] = sample.value
            elif sample.name.endswith("_created"):
                of_family[key] = min(total, sample.value)
            elif metric.name not in _OF_FIRST_PROCESS:
                of_family[key] = total + sample.value
    added = []
    for name, family in families.items():
        metric = Metric(name, family.documentation, family.type, family.unit)
        for (sample_name, labels), value in sums[name].items():
            metric.add_sample(sample_name, dict(labels), value)
        added.append(metric)
    return added


class SumCollector(Collector):
    """The sums over several collectors, and over the dumps of other processes."""

    def __init__(
        self,
        collectors: Iterable[Collector],
        dumps: Callable[[], Iterable[str]] = lambda: (),
    ) -> None:
        self._collectors = tuple(collectors)
        self._dumps = dumps

    def describe(self) -> list[Metric]:
        """Reserve no names: what is added up may not exist yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return the sums."""
        own = (metric for collector in self._collectors for metric in collector.collect())
        others = (metric for text in self._dumps() for metric in load(text))
        yield from add_up((*own, *others))


class Processes(Collector):
    """CPU time, memory and open files of several processes together.

    `pids`: returns their process ids, the first one's being that whose start time counts.
    """

    def __init__(self, pids: Callable[[], Iterable[int]]) -> None:
        self._pids = pids

    def describe(self) -> list[Metric]:
        """Reserve no names: not every system has these."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return the sums."""
        yield from add_up(
            metric
            for pid in self._pids()
            for metric in ProcessCollector(pid=partial(int, pid), registry=None).collect()
        )
