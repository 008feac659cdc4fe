"""`scmrl bench stream`."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.bench import report
from service.default_checkpoint import WEIGHTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from service.bench.streams import StreamsLoad

#: Largest growth of memory that is accepted, as a share.
_MAX_GROWTH = 0.02


def stream(
    weights: Annotated[
        Path, typer.Option(help="Folder of a checkpoint.", show_default="the embedded avdigits")
    ] = WEIGHTS / "avdigits",
    sessions: Annotated[int, typer.Option(min=1, help="Live sessions.")] = 32,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds that are measured.")] = 600.0,
    warm_up: Annotated[float, typer.Option(min=0, help="Seconds of the same load before.")] = 60.0,
    out: Annotated[Path | None, typer.Option(help="Folder for stream.json and stream.png.")] = None,
) -> None:
    """Measure live sessions of 15 pictures and 50 pieces of sound a second each.

    Beside them, clients that never read, send garbage or stall connect again and again, and a clip
    is uploaded every other second. Exits with 1 where a session is ended, an answer is behind by
    more than a window by the service's own clock (`behind_ms`; `lag_ms` includes what the clients
    here are late), or memory grows by 2 %.
    """
    report.require_modules("aiohttp", *["matplotlib"] * bool(out))
    from rich.console import Console

    from service.bench import servers, streams

    console = Console(width=120)
    most = str(sessions + 8)
    with servers.run_scmrl(weights, SCMRL_STREAM_SESSIONS=most) as server:
        load = asyncio.run(streams.run(server.url, server.pid, sessions, seconds, warm_up))
    _print(console, load)
    if out:
        report.write(out, "stream", asdict(load), _figure(load))
    failures = _failures(load)
    for failure in failures:
        console.print(failure)
    if failures:
        raise typer.Exit(1)


def _failures(load: StreamsLoad) -> list[str]:
    failures = []
    for number, session in enumerate(load.sessions):
        if session.closed is not None or not session.behind_ms:
            failures.append(f"session {number} was ended: {session.closed or 'no answer came'}")
        elif max(session.behind_ms) > 1000 * session.window_s:
            failures.append(f"session {number} fell behind by more than its window")
    if load.memory_growth(0) > _MAX_GROWTH:
        failures.append(f"memory grew by {load.memory_growth(0):.1%}")
    return failures


def _print(console: Any, load: StreamsLoad) -> None:
    import numpy as np
    from rich.table import Table

    table = Table(title=f"{len(load.sessions)} sessions, {load.seconds:g} s", title_justify="left")
    table.add_column("of all answers, ms")
    for heading in ("p50", "p95", "p99", "most", "median of the worst session"):
        table.add_column(heading, justify="right")
    for name in ("behind_ms", "lag_ms", "stale_ms"):
        by_session = [values for session in load.sessions if (values := getattr(session, name))]
        if not by_session:
            continue
        every = np.concatenate(by_session)
        worst = max(float(np.median(values)) for values in by_session)
        table.add_row(name, *(f"{value:.0f}" for value in np.percentile(every, (50, 95, 99, 100))),
                      f"{worst:.0f}")  # fmt: skip
    console.print(table)
    answers = sum(len(session.behind_ms) for session in load.sessions)
    skipped = sum(session.skipped for session in load.sessions)
    fewest = min(len(session.behind_ms) for session in load.sessions)
    problems = sum((Counter(session.problems) for session in load.sessions), start=Counter())
    window_s = load.sessions[0].window_s
    console.print(
        f"window {window_s:g} s; {answers} answers ({answers / load.seconds:.1f}/s, fewest of a "
        f"session {fewest}), {skipped} hops skipped, problems {dict(problems)}"
    )
    p50, p99 = np.percentile(load.upload_ms, (50, 99)) if load.upload_ms else (0, 0)
    console.print(
        f"uploads beside: {len(load.upload_ms)} answered, p50 {p50:.0f} ms, p99 {p99:.0f} ms, "
        f"{load.uploads_failed} failed; clients sent late by {load.late_ms:.0f} ms (p99)"
    )
    for column, name in enumerate(("resident, service", "proportional, all processes")):
        values = [reading[column] for reading in load.memory_mib]
        tenth = max(1, len(values) // 10)
        console.print(
            f"memory ({name}): {np.mean(values[:tenth]):.1f} MiB in the first tenth, "
            f"{np.mean(values[-tenth:]):.1f} in the last: {load.memory_growth(column):+.2%}"
        )
    used = ", ".join(f"{kind} {s / load.seconds:.2f}" for kind, s in load.cpu_s.items())
    console.print(f"cores used: {used}; all {sum(load.cpu_s.values()) / load.seconds:.2f}")
    console.print(f"clients that misbehave: {dict(sorted(load.misbehaved.items()))}")


def _figure(load: StreamsLoad) -> Figure:
    """Plot how far each session is behind, and memory over time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.boxplot(
        [session.lag_ms or [0.0] for session in load.sessions], whis=(1, 99), showfliers=False
    )
    left.set_xticks([])
    left.set_xlabel("session")
    left.set_ylabel("from capture to answer, ms")
    left.set_ylim(bottom=0)
    for column, name in enumerate(("resident, service", "proportional, all processes")):
        right.plot([reading[column] for reading in load.memory_mib], label=name)
    right.set_xlabel("reading, each 5 s")
    right.set_ylabel("memory, MiB")
    right.set_ylim(bottom=0)
    right.legend()
    return figure
