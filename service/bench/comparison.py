"""LitServe beside the service: the peak throughput of each, and latencies at the same load."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from service.bench import load, servers
from service.bench.litserve_setup import LitServeSetup, setups
from service.bench.load import LoadResult
from service.runtime import cores

#: Fraction of LitServe's peak throughput at which latencies are compared.
COMPARED_FRACTION = 0.7


class ServerLoads(NamedTuple):
    """A server at saturation, and at the rate at which two servers are compared."""

    peak: LoadResult
    steady: LoadResult


@dataclass(frozen=True)
class Comparison:
    """LitServe with a path of our network, as it is fastest, and the service at the same load.

    `tried`: clips/s at saturation by set-up of LitServe; `setup`: the fastest one.
    """

    name: str
    tried: dict[LitServeSetup, float]
    setup: LitServeSetup
    litserve: ServerLoads
    scmrl: ServerLoads


def compare(
    weights: Path, max_batch: int, device: str, path: str, forms: Sequence[bytes], seconds: float
) -> Comparison:
    """Try LitServe's set-ups, then measure the fastest one and the service, `seconds` each load.

    `path` of our network in LitServe: "plain" or "fused". Raises RuntimeError where LitServe
    answers no request.
    """
    name, tried = f"LitServe, {path} network", {}
    for setup in setups(cores.available()):
        with servers.run_litserve(weights, max_batch, path, setup, device) as server:
            peak = _measure_peak(server, forms, seconds)
            tried[setup] = peak.answered_per_s
    setup = max(tried, key=lambda each: tried[each])
    if not tried[setup]:
        raise RuntimeError(f"{name} answered no request: {peak.failed}")
    rate = COMPARED_FRACTION * tried[setup]
    with servers.run_litserve(weights, max_batch, path, setup, device) as server:
        litserve = _measure(server, forms, rate, seconds)
    settings = {"SCMRL_MAX_BATCH": str(max_batch), "SCMRL_DEVICE": device}
    with servers.run_scmrl(weights, **settings) as server:
        scmrl = _measure(server, forms, rate, seconds)
    return Comparison(name, tried, setup, litserve, scmrl)


def _measure(
    server: servers.Server, forms: Sequence[bytes], rate: float, seconds: float
) -> ServerLoads:
    peak = _measure_peak(server, forms, seconds)
    return ServerLoads(peak, asyncio.run(load.run_open_loop(server.url, forms, rate, seconds)))


def _measure_peak(server: servers.Server, forms: Sequence[bytes], seconds: float) -> LoadResult:
    load.warm_up(server.url, forms)
    return asyncio.run(load.run_closed_loop(server.url, forms, load.SATURATING_CLIENTS, seconds))
