"""`scmrl bench engine`: speed and parity of the network's paths on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.bench import kernels, report
from service.commands.device import Device
from service.default_checkpoint import WEIGHTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console
    from rich.table import Table
    from torch import Tensor

    from model.config import EnginePath
    from model.engine import Engine
    from model.engine.parity import Parity
    from model.network import SCMRL


def engine(
    case: Annotated[
        list[str] | None,
        typer.Option(
            help="Network: urbansound8k_av (64 channels), crema_d (256) or events; default: all."
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Batch sizes; default: 1, 8 and 32, on CUDA 1, 8, 64 and 256."),
    ] = None,
    device: Device = "auto",
    seconds: Annotated[
        float, typer.Option(min=0, help="Seconds of measurement for each batch size.")
    ] = 20.0,
    samples: Annotated[
        int, typer.Option(min=1, help="Random samples on which the paths are compared.")
    ] = 64,
    moving: Annotated[
        bool,
        typer.Option(
            "--moving",
            metavar="",
            help="Give the networks one picture per time step, not one that is held for all. "
            "Events always have one per step.",
        ),
    ] = False,
    memory: Annotated[
        bool, typer.Option(metavar="", help="Measure memory as well, each path in its own process.")
    ] = True,
    weights: Annotated[
        Path,
        typer.Option(
            help="Folder of a checkpoint, for --data.", show_default="the embedded avdigits"
        ),
    ] = WEIGHTS / "avdigits",
    data: Annotated[
        Path | None,
        typer.Option(
            help="Data folder of the checkpoint's task: measure it on its test clips as well, as "
            "speed depends on how many neurons fire."
        ),
    ] = None,
    clips: Annotated[int, typer.Option(min=1, help="Number of clips for --data.")] = 1000,
    out: Annotated[Path | None, typer.Option(help="Folder for engine.json and engine.png.")] = None,
) -> None:
    """Measure the plain network against the fused paths, in turns and on equal inputs.

    Prints median times, their ratio, how many spikes and predictions differ, and the peak memory:
    resident on a CPU, allocated by torch on CUDA. On CUDA also launches and kernel times.
    """
    report.require_modules(*["matplotlib"] * bool(out))
    from rich.console import Console

    from model.engine import devices
    from model.engine.bench import CASES

    console = Console()
    unknown = sorted(set(case or ()) - set(CASES))
    if unknown:
        typer.echo(f"--case {unknown[0]}: can be {', '.join(CASES)}", err=True)
        raise typer.Exit(2)
    resolved = devices(device)[0]
    batches = batch or ([1, 8, 32] if resolved == "cpu" else [1, 8, 64, 256])
    results = [
        _measure(name, resolved, batches, seconds, samples, memory, moving, console)
        for name in case or CASES
    ]
    on_clips = (
        _measure_on_clips(weights, data, resolved, batches, seconds, clips, console)
        if data
        else None
    )
    bandwidth = _measure_bandwidth(resolved, console) if resolved != "cpu" else None
    if out:
        content = {"cases": results, "clips": on_clips, "memory": bandwidth}
        report.write(out, "engine", content, _figure(results))


def _measure(
    name: str,
    device: str,
    batches: Sequence[int],
    seconds: float,
    samples: int,
    memory: bool,
    moving: bool,
    console: Console,
) -> dict[str, Any]:
    """Measure one random network and print its table."""
    from model.engine import bench

    case = bench.CASES[name]
    plain = bench.network(case)
    if moving:  # of the same network
        case = bench.moving(case)
    work, peak = bench.operations(case), bench.peak(device)
    engines = bench.engines(plain, case.steps, device)

    def frames(batch: int) -> dict[str, Tensor]:
        return bench.inputs(case, batch, seed=1)

    rows = []
    for timing in bench.timings(engines, case.steps, frames, batches, seconds):
        memory_mib = (
            bench.memory(name, timing.path, timing.batch, device, moves=moving) if memory else None
        )
        share = timing.samples_s * work / peak
        rows.append({**asdict(timing), "share_of_peak": share, "memory_mib": memory_mib})
    pictures = ", moving pictures" if moving else ""
    title = f"{name}: {case.config.embed_dim} channels, T = {case.steps}, {device}{pictures}"
    console.print(_table(title, rows))
    console.print(
        f"{work / 1e9:.2f} G multiply-accumulates per sample (published network); this device "
        f"does {peak / 1e9:.0f} G/s in a float32 matrix product"
    )
    plain.to(device)
    parts = [bench.inputs(case, 8, seed=100 + part) for part in range(-(-samples // 8))]
    parities = _compare(plain, engines, parts, case.steps, console)
    launched = kernels.measure(engines, plain, frames, batches, case.steps)
    kernels.show(launched, console)
    console.print()
    return {
        "case": name,
        "moving": moving,
        "device": device,
        "operations": work,
        "peak": peak,
        "timings": rows,
        "parity": parities,
        "kernels": [asdict(batch) for batch in launched],
    }


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of timings, as dictionaries; some have a share of the peak and memory."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for heading in (
        "batch", "path", "ms", "samples/s", "speedup", "share of peak", "MiB", "rounds"
    ):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=heading == "path")
    for row in rows:
        share = row.get("share_of_peak")
        table.add_row(
            str(row["batch"]), row["path"], f"{row['milliseconds']:.2f}",
            f"{row['samples_s']:.1f}", f"{row['ratio']:.2f}",
            "-" if share is None else f"{share:.0%}",
            str(row.get("memory_mib") or "-"), str(row["rounds"]),
        )  # fmt: skip
    return table


def _compare(
    plain: SCMRL,
    engines: Mapping[EnginePath, Engine],
    batches: Sequence[Mapping[str, Tensor]],
    steps: int,
    console: Console,
) -> dict[str, dict[str, Any]]:
    """Compare each fused path with the plain network, print how much differs, and return it.

    On CUDA the layers have the tiles of the engine. `batches`: frames [T or 1, B, C, H, W] by
    stream.
    """
    from model.engine import bench
    from model.engine.parity import measure_parity

    device = plain.head.bias.device
    parities: dict[str, dict[str, Any]] = {}
    for path, engine in engines.items():
        layers = bench.parity_layers(plain, path, engine.tiles)
        if layers is not None:
            moved = ({name: x.to(device) for name, x in frames.items()} for frames in batches)
            parity = measure_parity(plain, layers, moved, steps)
            console.print(_format_parity(path, parity))
            parities[path] = asdict(parity)
    return parities


def _measure_bandwidth(device: str, console: Console) -> dict[str, float]:
    """Measure the memory bandwidth of a GPU, and how much the plain network's neurons reach."""
    from model.engine import bench

    copies, neurons = bench.bandwidth(device), bench.neurons(device)
    console.print(
        f"{device} copies {copies / 1e9:.0f} GB/s, read and written; spikingjelly's neurons reach "
        f"{neurons / 1e9:.0f} GB/s ({neurons / copies:.0%}); fused ones keep currents in registers"
    )
    return {"bytes_s": copies, "neurons_bytes_s": neurons}


def _measure_on_clips(
    weights: Path,
    data: Path,
    device: str,
    batches: Sequence[int],
    seconds: float,
    count: int,
    console: Console,
) -> dict[str, Any]:
    """Measure a trained checkpoint on real clips, and compare its fused paths with the plain."""
    import torch

    from model import checkpoint
    from model.engine import bench
    from model.training.evaluator import held_out_batches

    plain, card = checkpoint.load(weights)
    plain.eval()
    clips = list(held_out_batches(weights, data, count))
    frames = {name: torch.cat([batch[name] for batch in clips], dim=1) for name in clips[0]}

    def first(batch: int) -> dict[str, Tensor]:
        """Return so many clips, from the first on; they are repeated where there are too few."""
        return {name: x[:, torch.arange(batch) % x.shape[1]] for name, x in frames.items()}

    engines = bench.engines(plain, card.steps, device)
    rows = [
        asdict(timing) for timing in bench.timings(engines, card.steps, first, batches, seconds)
    ]
    name = f"{card.name} {card.version}"
    console.print(_table(f"{name} on clips of {data}, T = {card.steps}, {device}", rows))
    parities = _compare(plain.to(device), engines, clips, card.steps, console)
    return {"checkpoint": name, "timings": rows, "parity": parities}


def _format_parity(path: str, parity: Parity) -> str:
    return (
        f"{path} against plain: {parity.flips} of {parity.spikes} spikes differ in layers with "
        f"equal inputs, {parity.token_flips} of {parity.tokens} values of the tokens, "
        f"{parity.classes} of {parity.samples} predictions; probabilities differ by at most "
        f"{parity.difference:.1e}"
    )


def _figure(results: Sequence[dict[str, Any]]) -> Figure:
    """Plot the throughput of each path, one panel per network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(results), 3.6), layout="constrained")
    for axes, result in zip(
        figure.subplots(1, len(results), squeeze=False)[0], results, strict=True
    ):
        timings = result["timings"]
        batches = sorted({row["batch"] for row in timings})
        paths = dict.fromkeys(row["path"] for row in timings)
        width = 0.8 / len(paths)
        for index, name in enumerate(paths):
            offset = (index - (len(paths) - 1) / 2) * width
            speeds = [row["samples_s"] for row in timings if row["path"] == name]
            positions = [group + offset for group in range(len(batches))]
            bars = axes.bar(positions, speeds, 0.95 * width, label=name)
            axes.bar_label(bars, fmt="%.0f", fontsize=8)
        axes.set_xticks(range(len(batches)), [str(batch) for batch in batches])
        axes.set_xlabel("batch")
        axes.set_title(result["case"])
    figure.axes[0].set_ylabel("samples/s")
    figure.axes[0].legend()
    return figure
