"""HTTP load generators, and what their clients measure."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np

from service.bench.clips import MIX, render_clip

_BOUNDARY = "scmrl-bench"
#: Clients of a closed loop that saturates a server.
SATURATING_CLIENTS = 16
#: Stages of a request, as the service's `timing_ms` names them.
_STAGES = ("decode", "preprocess", "queue", "inference")
#: Seconds between two requests to /healthz.
_HEALTH_INTERVAL_S = 0.05


@dataclass(frozen=True)
class RequestOutcome:
    """One request, as its client measured it.

    `latency_s` counts from the moment the request was due; `status` 0 means no response. A response
    with 200 has the `timing_ms` of its stages and its `batch_size`, where the server reports them;
    a rejected request may have `retry_after_s`.
    """

    latency_s: float
    status: int
    timing_ms: dict[str, float] = field(default_factory=dict)
    batch_size: int | None = None
    retry_after_s: float = 0.0


@dataclass(frozen=True)
class LoadResult:
    """Throughput and latency over `seconds` of load.

    `offered_per_s`: arrivals per second, None for a closed loop. `answered_per_s`: responses with
    200 per second, and the percentiles of their latency in ms. `failed`: other requests by status
    (0: no response). `batch_sizes`: responses by the size of their batch. `stage_shares`: share of
    the latency (0 to 1) in each stage; the rest is waiting to be decoded, and HTTP.
    """

    offered_per_s: float | None
    answered_per_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    failed: dict[int, int]
    batch_sizes: dict[int, int]
    stage_shares: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class OverloadResult:
    """Outcome of `sent` requests at a rate far above the peak throughput.

    `answered`: responses with 200; `rejected`: with 503; `failed`: others by status (0: no
    response). Latencies in ms count from the moment a request was due. `drain_s`: seconds from the
    end of the load to the last response. `recovery_ms`: latency of one request after that.
    """

    offered_per_s: float
    seconds: float
    sent: int
    answered: int
    rejected: int
    failed: dict[int, int]
    answered_p50_ms: float
    answered_p99_ms: float
    rejected_p50_ms: float
    rejected_p99_ms: float
    drain_s: float
    recovery_ms: float


def build_forms(**fields: object) -> list[bytes]:
    """Return the form bodies of the mixed load, each as often as the mix has its clip.

    `fields` are added to each form.
    """
    prefix = "".join(_part_head(name) + f"\r\n{value}\r\n" for name, value in fields.items())
    forms = []
    for spec, count in MIX:
        head = prefix + _part_head("clip", filename=f"clip.{spec.container}") + "\r\n"
        form = head.encode() + render_clip(spec) + f"\r\n--{_BOUNDARY}--\r\n".encode()
        forms += [form] * count
    return forms


def _part_head(name: str, **parameters: str) -> str:
    values = {"name": name, **parameters}
    disposition = "".join(f'; {key}="{value}"' for key, value in values.items())
    return f"--{_BOUNDARY}\r\nContent-Disposition: form-data{disposition}\r\n"


def warm_up(url: str, forms: Sequence[bytes]) -> None:
    """Load a server for 3 s without a result, so that its caches are filled."""
    asyncio.run(run_closed_loop(url, forms, clients=4, seconds=3.0))


async def run_closed_loop(
    url: str, forms: Sequence[bytes], clients: int, seconds: float
) -> LoadResult:
    """Measure the throughput of `clients` that send the next request after each response.

    A client whose request is rejected waits for the response's Retry-After.
    """
    outcomes: list[RequestOutcome] = []
    rng = np.random.default_rng(0)
    async with _session() as session:
        end = time.perf_counter() + seconds

        async def client() -> None:
            while time.perf_counter() < end:
                form = forms[int(rng.integers(len(forms)))]
                outcomes.append(await _post(session, url, form, time.perf_counter()))
                await asyncio.sleep(outcomes[-1].retry_after_s)

        started = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        return _summarize(outcomes, time.perf_counter() - started, None)


async def run_open_loop(
    url: str, forms: Sequence[bytes], rate: float, seconds: float, seed: int = 0
) -> LoadResult:
    """Measure latency at Poisson arrivals of `rate` requests per second.

    Requests are sent whether or not earlier ones have been answered, so that queueing shows.
    """
    started = time.perf_counter()
    async with _session() as session:
        outcomes = await _send_poisson(session, url, forms, rate, seconds, seed)
    return _summarize(outcomes, time.perf_counter() - started, rate)


async def run_overload(
    url: str, forms: Sequence[bytes], rate: float, seconds: float
) -> OverloadResult:
    """Send Poisson arrivals far above the peak throughput, and then one request more."""
    async with _session() as session:
        started = time.perf_counter()
        outcomes = await _send_poisson(session, url, forms, rate, seconds, seed=0)
        drain_s = time.perf_counter() - started - seconds
        recovery = await _post(session, url, forms[0], time.perf_counter())
    answered, rejected = (
        [1000 * outcome.latency_s for outcome in outcomes if outcome.status == status]
        for status in (200, 503)
    )
    failed = Counter(outcome.status for outcome in outcomes if outcome.status not in (200, 503))
    return OverloadResult(
        offered_per_s=rate,
        seconds=seconds,
        sent=len(outcomes),
        answered=len(answered),
        rejected=len(rejected),
        failed=dict(failed),
        answered_p50_ms=_percentile(answered, 50),
        answered_p99_ms=_percentile(answered, 99),
        rejected_p50_ms=_percentile(rejected, 50),
        rejected_p99_ms=_percentile(rejected, 99),
        drain_s=drain_s,
        recovery_ms=1000 * recovery.latency_s if recovery.status == 200 else float("nan"),
    )


async def measure_health(
    url: str, forms: Sequence[bytes], clients: int, seconds: float
) -> list[float]:
    """Return latencies in ms of GET /healthz while `clients` post clips to `url`."""
    health_url = url.rsplit("/v1/", 1)[0] + "/healthz"
    latencies_ms: list[float] = []
    async with _session() as session:
        load = asyncio.create_task(run_closed_loop(url, forms, clients, seconds))
        while not load.done():
            started = time.perf_counter()
            async with session.get(health_url) as response:
                await response.read()
            latencies_ms.append(1000 * (time.perf_counter() - started))
            await asyncio.sleep(_HEALTH_INTERVAL_S)
        await load
    return latencies_ms


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=120)
    )


async def _send_poisson(
    session: aiohttp.ClientSession,
    url: str,
    forms: Sequence[bytes],
    rate: float,
    seconds: float,
    seed: int,
) -> list[RequestOutcome]:
    rng = np.random.default_rng(seed)
    requests: list[asyncio.Task[RequestOutcome]] = []
    started = due = time.perf_counter()
    while due < started + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        form = forms[int(rng.integers(len(forms)))]
        requests.append(asyncio.create_task(_post(session, url, form, due)))
        due += float(rng.exponential(1 / rate))
    return await asyncio.gather(*requests)


async def _post(
    session: aiohttp.ClientSession, url: str, form: bytes, due: float
) -> RequestOutcome:
    headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    status, body, retry_after_s = 0, b"", 0.0
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with session.post(url, data=form, headers=headers) as response:
            body = await response.read()
            status = response.status
            retry_after_s = float(response.headers.get("Retry-After", 0))
    latency_s = time.perf_counter() - due
    if status != 200:
        return RequestOutcome(latency_s, status, retry_after_s=retry_after_s)
    answer: dict[str, Any] = json.loads(body)
    return RequestOutcome(latency_s, status, answer.get("timing_ms", {}), answer.get("batch_size"))


def _summarize(
    outcomes: Sequence[RequestOutcome], seconds: float, rate: float | None
) -> LoadResult:
    answered = [outcome for outcome in outcomes if outcome.status == 200]
    latencies_ms = [1000 * outcome.latency_s for outcome in answered]
    total_ms = sum(latencies_ms)
    failed = Counter(outcome.status for outcome in outcomes if outcome.status != 200)
    batch_sizes = Counter(outcome.batch_size for outcome in answered if outcome.batch_size)

    def share(stage: str) -> float:
        stage_ms = sum(outcome.timing_ms.get(stage, 0.0) for outcome in answered)
        return stage_ms / total_ms if total_ms else float("nan")

    return LoadResult(
        offered_per_s=rate,
        answered_per_s=len(answered) / seconds,
        p50_ms=_percentile(latencies_ms, 50),
        p95_ms=_percentile(latencies_ms, 95),
        p99_ms=_percentile(latencies_ms, 99),
        failed=dict(failed),
        batch_sizes=dict(sorted(batch_sizes.items())),
        stage_shares={stage: share(stage) for stage in _STAGES},
        seconds=seconds,
    )


def _percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if values else float("nan")
