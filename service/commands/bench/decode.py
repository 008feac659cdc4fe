"""`scmrl bench decode`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands.bench import report

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

    from service.bench.decode import DecodeTiming
    from service.bench.preprocess import PreprocessTiming


def decode(
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are reported.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Folder for decode.json and decode.png.")] = None,
) -> None:
    """Measure reading four frames of a clip against decoding all, preprocessing, and the sandbox.

    Rounds alternate between the ways. "all to RGB" decodes and converts every frame; "all decoded"
    decodes without conversion; "four" reads the four frames of a request with one thread, "all
    cores" with the threads of a request that runs alone. "speedup" is against each of the first
    two. "key frames" reads, with one thread, the key frame of each quarter of the clip where it
    has one (SCMRL_MAX_FRAME_SHIFT=0.5).
    """
    report.require_modules(*["matplotlib"] * bool(out))
    from rich.console import Console
    from rich.table import Table

    from service.bench import preprocess
    from service.bench.decode import process_timings, timings

    console = Console(width=120)
    table = Table(title="Four frames of a clip, median ms", title_justify="left")
    for heading in ("clip", "KiB", "all to RGB", "all decoded", "four", "speedup", "all cores",
                    "speedup", "key frames", "same frames"):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "clip" else "right")
    frame_timings = timings(rounds)
    for t in frame_timings:
        table.add_row(
            t.clip, str(t.kilobytes), f"{t.all_rgb_ms:.1f}", f"{t.all_ms:.1f}",
            f"{t.four_ms:.1f}", _speedups(t, t.four_ms), f"{t.four_all_cores_ms:.1f}",
            _speedups(t, t.four_all_cores_ms), f"{t.key_frames_ms:.1f}",
            "yes" if t.same_frames else "no",
        )  # fmt: skip
    console.print(table)

    sandbox = Table(
        title="Decoding and preprocessing of a request, median ms", title_justify="left"
    )
    for heading in ("clip", "in this process", "in a sandbox", "difference"):
        sandbox.add_column(heading, justify="left" if heading == "clip" else "right")
    sandbox_timings = process_timings(4 * rounds)
    for p in sandbox_timings:
        sandbox.add_row(
            p.clip, f"{p.in_process_ms:.1f}", f"{p.sandboxed_ms:.1f}",
            f"{p.sandboxed_ms - p.in_process_ms:+.1f}",
        )  # fmt: skip
    console.print(sandbox)

    preprocess_timings = preprocess.timings(20 * rounds)
    console.print(_preprocess_table(preprocess_timings))
    if out:
        rows = {
            "frames": [asdict(t) for t in frame_timings],
            "processes": [asdict(p) for p in sandbox_timings],
            "preprocessing": [asdict(each) for each in preprocess_timings],
        }
        report.write(out, "decode", rows, _figure(frame_timings))


def _preprocess_table(timings: Sequence[PreprocessTiming]) -> Table:
    from rich.table import Table

    table = Table(title="Preprocessing, median ms of CPU time", title_justify="left")
    for heading in ("preprocessing of", "clip"):
        table.add_column(heading)
    for heading in ("sound", "four frames", "both"):
        table.add_column(heading, justify="right")
    for each in timings:
        values = (f"{ms:.2f}" for ms in (each.sound_ms, each.pictures_ms, each.both_ms))
        table.add_row(each.profile, each.clip, *values)
    return table


def _speedups(timing: DecodeTiming, ms: float) -> str:
    """Format the speedup against converting all frames, and against decoding all."""
    return f"{timing.all_rgb_ms / ms:.1f} / {timing.all_ms / ms:.1f}"


def _figure(timings: Sequence[DecodeTiming]) -> Figure:
    """Plot the milliseconds of each way, one group of bars per clip."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    series = {
        "all to RGB": [t.all_rgb_ms for t in timings],
        "all decoded": [t.all_ms for t in timings],
        "four": [t.four_ms for t in timings],
        "four, all cores": [t.four_all_cores_ms for t in timings],
        "key frames": [t.key_frames_ms for t in timings],
    }
    for index, (name, values) in enumerate(series.items()):
        positions = [clip + 0.17 * (index - 2) for clip in range(len(timings))]
        bars = axes.barh(positions, values, 0.16, label=name)
        axes.bar_label(bars, fmt="%.0f", fontsize=8, padding=2)
    axes.set_yticks(range(len(timings)), [t.clip for t in timings])
    axes.invert_yaxis()
    axes.set_xlabel("ms")
    axes.legend()
    return figure
