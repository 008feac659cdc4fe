"""`scmrl bench service`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.bench import report
from service.settings import WEIGHTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from service.bench.load import Overload, Seen

#: Arrival rates, as shares of what the server does at most.
_SHARES = (0.3, 0.5, 0.7, 0.9, 1.2)
#: Clients beside which /healthz is asked.
_MANY = 64
#: The share at which two servers' latencies are compared.
_COMPARED = 0.7
#: Arrivals of an overload, as a multiple of what the server does at most.
_OVERLOAD = 10


def service(
    weights: Annotated[Path, typer.Option(help="A checkpoint's folder.")] = WEIGHTS / "avdigits",
    seconds: Annotated[float, typer.Option(min=1, help="Seconds for each load.")] = 15.0,
    overload: Annotated[
        float, typer.Option(min=0, help="Seconds of ten times what it can do; 0: none.")
    ] = 60.0,
    max_batch: Annotated[int, typer.Option(min=1, help="Largest batch of each server.")] = 8,
    litserve: Annotated[
        bool, typer.Option(help="Load LitServe as well, with the same network (scmrl[bench]).")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for service.json and service.png.")
    ] = None,
) -> None:
    """The real service under a mixed load of clips, over HTTP.

    First as many as it can do, then at several rates at which clips come whether or not those
    before them were answered, and at last at ten times what it can do. Server and clients share
    this machine's cores.
    """
    report.need("aiohttp", *["litserve"] * litserve, *["matplotlib"] * bool(out))
    from rich.console import Console

    from service.bench import load, servers

    console = Console(width=120)
    forms = load.bodies()
    results: dict[str, Any] = {}
    with servers.scmrl(weights, SCMRL_MAX_BATCH=str(max_batch)) as server:
        load.warm(server.url, forms)
        most = asyncio.run(load.closed(server.url, forms, load.BUSY, seconds))
        rates = [share * most.answered_s for share in _SHARES]
        steady = [asyncio.run(load.opened(server.url, forms, rate, seconds)) for rate in rates]
        health = asyncio.run(load.beside(server.url, forms, _MANY, seconds))
        rate = _OVERLOAD * most.answered_s
        over = asyncio.run(load.overloaded(server.url, forms, rate, overload)) if overload else None
    _print(console, "scmrl", [most, *steady])
    results["scmrl"] = [asdict(seen) for seen in (most, *steady)]
    results["healthz_ms"] = _health(console, health)
    if over:
        _tell(console, over)
        results["overload"] = asdict(over)
    compared: dict[str, list[Seen]] = {"scmrl": [most]}
    if litserve:
        for path in ("plain", "fused"):
            name = f"LitServe, {path} network"
            with servers.litserve(weights, max_batch, path) as server:
                theirs, same = _most_and_steady(server.url, forms, seconds)
            if same is None:
                typer.echo(f"{name} answered nothing: {theirs.refused}", err=True)
                raise typer.Exit(1)
            with servers.scmrl(weights, SCMRL_MAX_BATCH=str(max_batch)) as server:
                again, ours = _most_and_steady(server.url, forms, seconds, same.offered_s)
            assert ours is not None
            _print(console, name, [theirs, same])
            _print(console, f"scmrl at the load of {name}", [again, ours])
            console.print(
                f"At saturation {again.answered_s / theirs.answered_s:.2f} times its throughput; "
                f"at {_COMPARED:.0%} of its load p99 {ours.p99_ms:.0f} against "
                f"{same.p99_ms:.0f} ms.\n"
            )
            results[name] = [asdict(seen) for seen in (theirs, same)]
            results[f"scmrl beside {name}"] = [asdict(seen) for seen in (again, ours)]
            compared[name] = [theirs]
    if out:
        report.write(out, "service", results, _figure(steady, compared))


def _most_and_steady(
    url: str, forms: Sequence[bytes], seconds: float, rate: float | None = None
) -> tuple[Seen, Seen | None]:
    """The most that a server does, and what it does at `rate`, by default a share of that; None
    where it answers nothing."""
    from service.bench import load

    load.warm(url, forms)
    most = asyncio.run(load.closed(url, forms, load.BUSY, seconds))
    rate = rate or _COMPARED * most.answered_s
    return most, asyncio.run(load.opened(url, forms, rate, seconds)) if rate else None


def _print(console: Any, title: str, loads: Sequence[Seen]) -> None:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in ("offered/s", "answered/s", "p50 ms", "p95 ms", "p99 ms", "refused",
                    "mean batch", "decode", "preprocess", "queue", "inference"):  # fmt: skip
        table.add_column(heading, justify="right")
    for seen in loads:
        count = sum(seen.batch_sizes.values())
        mean = sum(size * n for size, n in seen.batch_sizes.items()) / count if count else 0.0
        table.add_row(
            "most" if seen.offered_s is None else f"{seen.offered_s:.1f}",
            f"{seen.answered_s:.1f}", f"{seen.p50_ms:.0f}", f"{seen.p95_ms:.0f}",
            f"{seen.p99_ms:.0f}", ", ".join(f"{n} x {s}" for s, n in seen.refused.items()) or "0",
            f"{mean:.1f}", *(f"{share:.0%}" for share in seen.shares.values()),
        )  # fmt: skip
    console.print(table)
    sizes = loads[0].batch_sizes
    if sizes:
        most = max(sizes.values())
        bars = (f"{size:>3} {'#' * round(40 * n / most)} {n}" for size, n in sizes.items())
        console.print("batch sizes at most:", *bars, sep="\n")


def _health(console: Any, taken: Sequence[float]) -> dict[str, float]:
    import numpy as np

    p50, p99 = (float(np.percentile(taken, q)) for q in (50, 99))
    console.print(
        f"/healthz beside {_MANY} clients that post clips: p50 {p50:.1f} ms, p99 {p99:.1f} ms "
        f"over {len(taken)}\n"
    )
    return {"p50": p50, "p99": p99, "count": len(taken)}


def _tell(console: Any, over: Overload) -> None:
    others = ", ".join(f"{n} x {s}" for s, n in over.others.items()) or "none else"
    console.print(
        f"{over.offered_s:.0f} clips a second, {_OVERLOAD} times what it can do, for "
        f"{over.seconds:g} s: {over.sent} sent; {over.answered} answered (p50 "
        f"{over.answered_p50_ms:.0f}, p99 {over.answered_p99_ms:.0f} ms), {over.refused} refused "
        f"with 503 (p50 {over.refused_p50_ms:.0f}, p99 {over.refused_p99_ms:.0f} ms), {others}. "
        f"The last answer came {over.drained_s:.1f} s after the end, and a lone clip then took "
        f"{over.after_ms:.0f} ms.\n"
    )


def _figure(steady: Sequence[Seen], compared: dict[str, list[Seen]]) -> Figure:
    """Latency over load, and the servers' throughput beside each other."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    rates = [seen.offered_s for seen in steady]
    for name in ("p50_ms", "p95_ms", "p99_ms"):
        left.plot(rates, [getattr(seen, name) for seen in steady], "o-", label=name[:3])
    left.set_xlabel("clips that come a second")
    left.set_ylabel("ms from the moment a clip is due")
    left.set_yscale("log")
    left.legend()
    names = list(compared)
    bars = right.bar(range(len(names)), [compared[name][0].answered_s for name in names])
    right.bar_label(bars, fmt="%.1f")
    right.set_xticks(range(len(names)), [name.replace(", ", "\n") for name in names])
    right.set_ylabel("clips answered a second, at most")
    return figure
