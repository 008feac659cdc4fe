"""`scmrl bench service`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.bench import report
from service.commands.device import Device
from service.default_checkpoint import WEIGHTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from service.bench.comparison import Comparison
    from service.bench.load import LoadResult, OverloadResult
    from service.bench.servers import Server

#: Arrival rates, as fractions of the peak throughput.
_LOAD_FRACTIONS = (0.3, 0.5, 0.7, 0.9, 1.2)
#: Clients that post clips while /healthz is measured.
_HEALTH_CLIENTS = 64
#: Clients of the loads whose CPU time is reported, each with the smallest clip of the mix.
_CPU_CLIENTS = (1, 6)
#: Arrival rate of the overload, as a multiple of the peak throughput.
_OVERLOAD_FACTOR = 10


def service(
    weights: Annotated[
        Path, typer.Option(help="Folder of a checkpoint.", show_default="the embedded avdigits")
    ] = WEIGHTS / "avdigits",
    seconds: Annotated[float, typer.Option(min=1, help="Seconds of each load.")] = 15.0,
    overload: Annotated[
        float, typer.Option(min=0, help="Seconds of 10x overload; 0 skips it.")
    ] = 60.0,
    max_batch: Annotated[int, typer.Option(min=1, help="Maximum batch of each server.")] = 8,
    device: Device = "auto",
    litserve: Annotated[
        bool,
        typer.Option(
            metavar="",
            help="Measure LitServe as well, with the same network, plain and fused, and with the "
            "number of workers and threads with which it is fastest.",
        ),
    ] = False,
    rounds: Annotated[
        int,
        typer.Option(
            min=1,
            help="With --litserve: rounds, each LitServe and then the service; medians are "
            "compared.",
        ),
    ] = 3,
    out: Annotated[
        Path | None, typer.Option(help="Folder for service.json and service.png.")
    ] = None,
) -> None:
    """Measure the service over HTTP, under a mixed load of clips.

    First the peak throughput of a closed loop, and CPU time per request by process and kind of
    thread, of a lone client and six as well. Then latency at Poisson arrivals of several rates,
    then /healthz under load, and last 10x overload. Server and clients share the cores of this
    machine.
    """
    report.require_modules("aiohttp", *["litserve"] * litserve, *["matplotlib"] * bool(out))
    from rich.console import Console

    from service.bench import comparison, load, servers

    console = Console(width=120)
    forms = load.build_forms()
    with servers.run_scmrl(weights, SCMRL_MAX_BATCH=str(max_batch), SCMRL_DEVICE=device) as server:
        measured = _measure(server, forms, seconds, overload)
    results = _report(console, measured)
    peaks = {"scmrl": measured.peak.answered_per_s}
    failure: RuntimeError | None = None
    for path in ("plain", "fused") if litserve else ():
        try:
            compared = comparison.compare(weights, max_batch, device, path, forms, seconds, rounds)
        except RuntimeError as exc:  # LitServe did not start, or answers nothing
            failure = exc
            break
        results[compared.name] = _report_comparison(console, compared)
        peaks[compared.name] = median(
            round.litserve.peak.answered_per_s for round in compared.rounds
        )
    if out:
        report.write(out, "service", results, _figure(measured.steady, peaks))
    if failure is not None:
        typer.echo(f"Error: {failure}", err=True)
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Measured:
    """What is measured of the service alone.

    `cpu_ms`: by load, CPU milliseconds per answered request by process and kind of thread. `peak`:
    the closed loop that saturates it; `steady`: Poisson arrivals, at rising rates. `health_ms`:
    latencies of /healthz under load. `overload`: None where it was skipped.
    """

    cpu_ms: dict[str, dict[str, float]]
    peak: LoadResult
    steady: list[LoadResult]
    health_ms: list[float]
    overload: OverloadResult | None


def _measure(server: Server, forms: Sequence[bytes], seconds: float, overload: float) -> _Measured:
    """Measure the service under each load in turn; `overload`: seconds of it."""
    from service.bench import cpu_time, load
    from service.bench.clips import MIX

    load.warm_up(server.url, forms)
    cpu_time.wait_until_idle(server.pid)  # other checkpoints are loaded and compiled
    cpu_ms = {
        f"{clients} client{'s' * (clients > 1)}, {MIX[0][0].name}": _measure_cpu(
            server, forms[: MIX[0][1]], clients, seconds
        )[1]
        for clients in _CPU_CLIENTS
    }
    peak, cpu_ms["peak, mixed load"] = _measure_cpu(server, forms, load.SATURATING_CLIENTS, seconds)
    steady = [
        asyncio.run(load.run_open_loop(server.url, forms, fraction * peak.answered_per_s, seconds))
        for fraction in _LOAD_FRACTIONS
    ]
    health_ms = asyncio.run(load.measure_health(server.url, forms, _HEALTH_CLIENTS, seconds))
    rate = _OVERLOAD_FACTOR * peak.answered_per_s
    overloaded = (
        asyncio.run(load.run_overload(server.url, forms, rate, overload)) if overload else None
    )
    return _Measured(cpu_ms, peak, steady, health_ms, overloaded)


def _report(console: Any, measured: _Measured) -> dict[str, Any]:
    """Print what was measured, and return it for service.json."""
    loads = [measured.peak, *measured.steady]
    _print_cpu(console, measured.cpu_ms)
    _print_loads(console, "scmrl", loads)
    results: dict[str, Any] = {
        "cpu_ms": measured.cpu_ms,
        "scmrl": [asdict(result) for result in loads],
        "healthz_ms": _print_health(console, measured.health_ms),
    }
    if measured.overload:
        _print_overload(console, measured.overload)
        results["overload"] = asdict(measured.overload)
    return results


def _report_comparison(console: Any, compared: Comparison) -> dict[str, Any]:
    """Print how LitServe was set up, both servers' loads and their ratio; return them for
    service.json."""
    name = compared.name
    litserve = [round.litserve for round in compared.rounds]
    scmrl = [round.scmrl for round in compared.rounds]
    tried = ", ".join(f"{rate:.1f} clips/s with {setup}" for setup, rate in compared.tried.items())
    console.print(f"{name}: {tried}")
    _print_loads(console, f"{name}, {compared.setup}", list(chain(*litserve)))
    _print_loads(console, f"scmrl at the load of {name}", list(chain(*scmrl)))
    p99, litserve_p99 = (
        median(loads.steady.p99_ms for loads in server) for server in (scmrl, litserve)
    )
    console.print(
        f"Peak throughput of scmrl: {compared.speedup:.2f}x; at {compared.rate:.1f} clips/s, p99 "
        f"{p99:.0f} against {litserve_p99:.0f} ms (medians of {len(compared.rounds)}).\n"
    )
    return {
        "tried": [
            asdict(setup) | {"answered_per_s": rate} for setup, rate in compared.tried.items()
        ],
        "setup": asdict(compared.setup),
        "speedup": compared.speedup,
        "litserve": [[asdict(result) for result in loads] for loads in litserve],
        "scmrl": [[asdict(result) for result in loads] for loads in scmrl],
    }


def _measure_cpu(
    server: Server, forms: Sequence[bytes], clients: int, seconds: float
) -> tuple[LoadResult, dict[str, float]]:
    """Measure a closed loop, and the server's CPU milliseconds per answered request by kind."""
    from service.bench import cpu_time, load

    before = cpu_time.read_cpu_s(server.pid)
    result = asyncio.run(load.run_closed_loop(server.url, forms, clients, seconds))
    answered = round(result.answered_per_s * result.seconds)
    return result, cpu_time.per_request_ms(before, cpu_time.read_cpu_s(server.pid), answered)


def _print_cpu(console: Any, loads: Mapping[str, Mapping[str, float]]) -> None:
    from rich.table import Table

    table = Table(title="CPU ms per answered request", title_justify="left")
    table.add_column("process or thread")
    for name in loads:
        table.add_column(name, justify="right")
    for kind in next(iter(loads.values())):
        table.add_row(kind, *(f"{ms[kind]:.1f}" for ms in loads.values()))
    console.print(table)


def _print_loads(console: Any, title: str, results: Sequence[LoadResult]) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in ("offered/s", "answered/s", "p50 ms", "p95 ms", "p99 ms", "failed",
                    "batch of a clip", "decode", "preprocess", "queue", "inference"):  # fmt: skip
        table.add_column(heading, justify="right")
    for result in results:
        count = sum(result.batch_sizes.values())
        mean = sum(size * n for size, n in result.batch_sizes.items()) / count if count else 0.0
        table.add_row(
            "peak" if result.offered_per_s is None else f"{result.offered_per_s:.1f}",
            f"{result.answered_per_s:.1f}", f"{result.p50_ms:.0f}", f"{result.p95_ms:.0f}",
            f"{result.p99_ms:.0f}",
            ", ".join(f"{n} x {status}" for status, n in result.failed.items()) or "0",
            f"{mean:.1f}", *(f"{share:.0%}" for share in result.stage_shares.values()),
        )  # fmt: skip
    console.print(table)
    sizes = results[0].batch_sizes
    if sizes:
        longest = max(sizes.values())
        bars = (f"{size:>3} {'#' * round(40 * n / longest)} {n}" for size, n in sizes.items())
        console.print("responses by batch size at peak throughput:", *bars, sep="\n")


def _print_health(console: Any, latencies_ms: Sequence[float]) -> dict[str, float]:
    import numpy as np

    p50, p99 = (float(np.percentile(latencies_ms, q)) for q in (50, 99))
    console.print(
        f"/healthz while {_HEALTH_CLIENTS} clients post clips: p50 {p50:.1f} ms, p99 {p99:.1f} ms "
        f"of {len(latencies_ms)} requests\n"
    )
    return {"p50": p50, "p99": p99, "count": len(latencies_ms)}


def _print_overload(console: Any, result: OverloadResult) -> None:
    failed = ", ".join(f"{n} x {status}" for status, n in result.failed.items()) or "0"
    console.print(
        f"{_OVERLOAD_FACTOR}x overload, {result.offered_per_s:.0f} clips/s for "
        f"{result.seconds:g} s: {result.sent} sent; {result.answered} answered (p50 "
        f"{result.answered_p50_ms:.0f}, p99 {result.answered_p99_ms:.0f} ms), {result.rejected} "
        f"rejected with 503 (p50 {result.rejected_p50_ms:.0f}, p99 {result.rejected_p99_ms:.0f} "
        f"ms), {failed} failed. Last response {result.drain_s:.1f} s after the end of the load; a "
        f"request after that took {result.recovery_ms:.0f} ms.\n"
    )


def _figure(steady: Sequence[LoadResult], peaks: Mapping[str, float]) -> Figure:
    """Plot latency over load, and the peak throughput of each server, in clips/s."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    rates = [result.offered_per_s for result in steady]
    for name in ("p50_ms", "p95_ms", "p99_ms"):
        left.plot(rates, [getattr(result, name) for result in steady], "o-", label=name[:3])
    left.set_xlabel("arrivals, clips/s")
    left.set_ylabel("latency from the arrival, ms")
    left.set_yscale("log")
    left.legend()
    names = list(peaks)
    bars = right.bar(range(len(names)), list(peaks.values()))
    right.bar_label(bars, fmt="%.1f")
    right.set_xticks(range(len(names)), [name.replace(", ", "\n") for name in names])
    right.set_ylabel("peak throughput, clips/s")
    return figure
