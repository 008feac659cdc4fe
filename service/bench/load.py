"""Load on a server over HTTP, and what its clients saw."""

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
#: Clients that ask again at once and so keep a server busy.
BUSY = 16


@dataclass(frozen=True)
class Sent:
    """One request: its latency (s) from the moment it was due, its status (0: no answer), and
    the answer's own times (ms) and batch size where it has them, or when to ask again (s)."""

    latency_s: float
    status: int
    timing_ms: dict[str, float] = field(default_factory=dict)
    batch_size: int | None = None
    retry_after_s: float = 0.0


@dataclass(frozen=True)
class Seen:
    """What the clients of a server saw in `seconds`: answers a second, latencies (ms) of those
    that got one, the rest by status, batch sizes, and the share of an answer's time (0 to 1) in
    decode, preprocess, queue and inference; the rest is waiting to be decoded, and HTTP."""

    offered_s: float | None
    answered_s: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    refused: dict[int, int]
    batch_sizes: dict[int, int]
    shares: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Overload:
    """What became of `sent` requests, more than a server can do: `answered`, `refused` (503),
    `others` by status (0: no answer); latencies (ms) from the moment a request was due; how long
    after the last of them was due the last answer came (s), and what a lone request took then."""

    offered_s: float
    seconds: float
    sent: int
    answered: int
    refused: int
    others: dict[int, int]
    answered_p50_ms: float
    answered_p99_ms: float
    refused_p50_ms: float
    refused_p99_ms: float
    drained_s: float
    after_ms: float


def bodies(**fields: object) -> list[bytes]:
    """The mixed load's forms with these fields beside the clip, each as often as it comes."""
    beside = "".join(_part(name) + f"\r\n{value}\r\n" for name, value in fields.items())
    forms = []
    for spec, often in MIX:
        head = beside + _part("clip", filename=f"clip.{spec.container}") + "\r\n"
        form = head.encode() + render_clip(spec) + f"\r\n--{_BOUNDARY}--\r\n".encode()
        forms += [form] * often
    return forms


def _part(name: str, **more: str) -> str:
    described = "".join(f'; {key}="{value}"' for key, value in {"name": name, **more}.items())
    return f"--{_BOUNDARY}\r\nContent-Disposition: form-data{described}\r\n"


def warm(url: str, forms: Sequence[bytes]) -> None:
    """Load a server for a moment, and forget what was seen: its caches are filled."""
    asyncio.run(closed(url, forms, clients=4, seconds=3.0))


async def closed(url: str, forms: Sequence[bytes], clients: int, seconds: float) -> Seen:
    """`clients` that each ask again as soon as they have an answer, or when they are told to:
    the most a server does."""
    sent: list[Sent] = []
    rng = np.random.default_rng(0)
    async with _session() as session:
        end = time.perf_counter() + seconds

        async def client() -> None:
            while time.perf_counter() < end:
                form = forms[int(rng.integers(len(forms)))]
                sent.append(await _ask(session, url, form, time.perf_counter()))
                await asyncio.sleep(sent[-1].retry_after_s)

        started = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        return _seen(sent, time.perf_counter() - started, None)


async def opened(
    url: str, forms: Sequence[bytes], rate: float, seconds: float, seed: int = 0
) -> Seen:
    """Requests that come at random moments, `rate` a second, whether or not those before them
    have been answered: as people come, so that queueing shows."""
    started = time.perf_counter()
    async with _session() as session:
        sent = await _arriving(session, url, forms, rate, seconds, seed)
    return _seen(sent, time.perf_counter() - started, rate)


async def overloaded(url: str, forms: Sequence[bytes], rate: float, seconds: float) -> Overload:
    """As `opened`, at a rate that is far above what the server does; then one request more."""
    async with _session() as session:
        started = time.perf_counter()
        sent = await _arriving(session, url, forms, rate, seconds, seed=0)
        drained_s = time.perf_counter() - started - seconds
        after = await _ask(session, url, forms[0], time.perf_counter())
    latencies = {
        status: [1000 * one.latency_s for one in sent if one.status == status]
        for status in (200, 503)
    }
    return Overload(
        offered_s=rate,
        seconds=seconds,
        sent=len(sent),
        answered=len(latencies[200]),
        refused=len(latencies[503]),
        others=dict(Counter(one.status for one in sent if one.status not in latencies)),
        answered_p50_ms=_percentile(latencies[200], 50),
        answered_p99_ms=_percentile(latencies[200], 99),
        refused_p50_ms=_percentile(latencies[503], 50),
        refused_p99_ms=_percentile(latencies[503], 99),
        drained_s=drained_s,
        after_ms=1000 * after.latency_s if after.status == 200 else float("nan"),
    )


def _percentile(values: Sequence[float], of: float) -> float:
    return float(np.percentile(values, of)) if values else float("nan")


async def _arriving(
    session: aiohttp.ClientSession,
    url: str,
    forms: Sequence[bytes],
    rate: float,
    seconds: float,
    seed: int,
) -> list[Sent]:
    rng = np.random.default_rng(seed)
    asked: list[asyncio.Task[Sent]] = []
    started = due = time.perf_counter()
    while due < started + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        form = forms[int(rng.integers(len(forms)))]
        asked.append(asyncio.create_task(_ask(session, url, form, due)))
        due += float(rng.exponential(1 / rate))
    return await asyncio.gather(*asked)


async def beside(url: str, forms: Sequence[bytes], clients: int, seconds: float) -> list[float]:
    """Latencies (ms) of GET /healthz, 20 a second, while `clients` post clips to `url`."""
    health = url.rsplit("/v1/", 1)[0] + "/healthz"
    taken: list[float] = []
    async with _session() as session:
        load = asyncio.create_task(closed(url, forms, clients, seconds))
        while not load.done():
            started = time.perf_counter()
            async with session.get(health) as response:
                await response.read()
            taken.append(1000 * (time.perf_counter() - started))
            await asyncio.sleep(0.05)
        await load
    return taken


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=120)
    )


async def _ask(session: aiohttp.ClientSession, url: str, form: bytes, due: float) -> Sent:
    headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    status, answer, retry_after_s = 0, b"", 0.0
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with session.post(url, data=form, headers=headers) as response:
            answer = await response.read()
            status = response.status
            retry_after_s = float(response.headers.get("Retry-After", 0))
    latency = time.perf_counter() - due
    if status != 200:
        return Sent(latency, status, retry_after_s=retry_after_s)
    found: dict[str, Any] = json.loads(answer)
    return Sent(latency, status, found.get("timing_ms", {}), found.get("batch_size"))


def _seen(sent: Sequence[Sent], seconds: float, rate: float | None) -> Seen:
    answered = [one for one in sent if one.status == 200]
    latencies = [1000 * one.latency_s for one in answered]
    total = sum(latencies)
    parts = ("decode", "preprocess", "queue", "inference")
    return Seen(
        offered_s=rate,
        answered_s=len(answered) / seconds,
        p50_ms=_percentile(latencies, 50),
        p95_ms=_percentile(latencies, 95),
        p99_ms=_percentile(latencies, 99),
        refused=dict(Counter(one.status for one in sent if one.status != 200)),
        batch_sizes=dict(sorted(Counter(o.batch_size for o in answered if o.batch_size).items())),
        shares={
            p: sum(o.timing_ms.get(p, 0.0) for o in answered) / total if total else float("nan")
            for p in parts
        },
        seconds=seconds,
    )
