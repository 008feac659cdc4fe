"""LitServe beside the service: the peak throughput of each, and latencies at the same load."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from service.bench import cpu_time, load, servers
from service.bench.litserve_setup import LitServeSetup, setups
from service.bench.load import LoadResult
from service.runtime import cores

#: Fraction of LitServe's peak throughput at which latencies are compared.
COMPARED_FRACTION = 0.7


class ServerLoads(NamedTuple):
    """A server at saturation, and at the rate at which two servers are compared."""

    peak: LoadResult
    steady: LoadResult


class Round(NamedTuple):
    """Both servers under the same loads, one after the other."""

    litserve: ServerLoads
    scmrl: ServerLoads


@dataclass(frozen=True)
class Comparison:
    """LitServe with a path of our network, as it is fastest, and the service at the same load.

    `tried`: clips/s at saturation by set-up of LitServe; `setup`: the fastest one. `rounds`: at
    least one.
    """

    name: str
    tried: dict[LitServeSetup, float]
    setup: LitServeSetup
    rounds: list[Round]

    @property
    def speedup(self) -> float:
        """The service's peak throughput over LitServe's, median of the rounds."""
        return median(
            round.scmrl.peak.answered_per_s / round.litserve.peak.answered_per_s
            for round in self.rounds
        )

    @property
    def rate(self) -> float:
        """The rate, in clips/s, at which latencies are compared."""
        return COMPARED_FRACTION * self.tried[self.setup]


def compare(
    weights: Path,
    max_batch: int,
    device: str,
    path: str,
    forms: Sequence[bytes],
    seconds: float,
    rounds: int,
) -> Comparison:
    """Try LitServe's set-ups, then measure the fastest one and the service in turns, `seconds` each
    load.

    `path` of our network in LitServe: "plain" or "fused". Raises RuntimeError where LitServe
    answers no request at saturation.
    """
    name, tried = f"LitServe, {path} network", {}
    for setup in setups(cores.available()):
        with servers.run_litserve(weights, max_batch, path, setup, device) as server:
            peak = _measure_peak(server, forms, seconds)
            tried[setup] = peak.answered_per_s
    setup = max(tried, key=lambda each: tried[each])
    if not tried[setup]:
        raise RuntimeError(f"{name} answered no request: {peak.failed}")
    compared = Comparison(name, tried, setup, [])
    settings = {"SCMRL_MAX_BATCH": str(max_batch), "SCMRL_DEVICE": device}
    for _ in range(rounds):
        with servers.run_litserve(weights, max_batch, path, setup, device) as server:
            litserve = _measure(server, forms, compared.rate, seconds)
        if not litserve.peak.answered_per_s:
            raise RuntimeError(f"{name} answered no request: {litserve.peak.failed}")
        with servers.run_scmrl(weights, **settings) as server:
            # LitServe has loaded its one checkpoint when it is ready; ours goes on with others.
            cpu_time.wait_until_idle(server.pid)
            scmrl = _measure(server, forms, compared.rate, seconds)
        compared.rounds.append(Round(litserve, scmrl))
    return compared


def _measure(
    server: servers.Server, forms: Sequence[bytes], rate: float, seconds: float
) -> ServerLoads:
    peak = _measure_peak(server, forms, seconds)
    return ServerLoads(peak, asyncio.run(load.run_open_loop(server.url, forms, rate, seconds)))


def _measure_peak(server: servers.Server, forms: Sequence[bytes], seconds: float) -> LoadResult:
    load.warm_up(server.url, forms)
    return asyncio.run(load.run_closed_loop(server.url, forms, load.SATURATING_CLIENTS, seconds))
