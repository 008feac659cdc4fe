"""`scmrl bench engine`: how fast the network is here, in numbers that anyone can repeat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.bench import report
from service.commands.device import Device
from service.settings import WEIGHTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console
    from torch import Tensor

    from model.engine import Path as EnginePath
    from model.engine.parity import Parity


def engine(
    case: Annotated[
        list[str] | None,
        typer.Option(help="urbansound8k_av (64 channels), crema_d (256) or events; default: all."),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Batch sizes; default: 1, 8 and 32, on CUDA 1, 8, 64 and 256."),
    ] = None,
    device: Device = "auto",
    seconds: Annotated[float, typer.Option(min=0, help="Seconds for each batch size.")] = 20.0,
    samples: Annotated[
        int, typer.Option(min=1, help="Random samples on which the paths are compared.")
    ] = 64,
    memory: Annotated[
        bool, typer.Option(help="Measure memory too, each path in a process of its own.")
    ] = True,
    weights: Annotated[Path, typer.Option(help="A checkpoint's folder, for --data.")] = WEIGHTS
    / "avdigits",
    data: Annotated[
        Path | None,
        typer.Option(help="avdigits: compare the checkpoint's paths on clips of it as well."),
    ] = None,
    clips: Annotated[int, typer.Option(min=1, help="How many of those.")] = 1000,
    out: Annotated[Path | None, typer.Option(help="Folder for engine.json and engine.png.")] = None,
) -> None:
    """The plain network against the fused paths: in turns, on equal inputs and allocator settings.

    Prints medians, their ratio, how many spikes and answers differ, and the greatest memory:
    resident on a CPU, what torch takes of a GPU's on CUDA.
    """
    report.need(*["matplotlib"] * bool(out))
    from rich.console import Console

    from model.engine import devices
    from model.engine.bench import CASES

    console = Console()
    unknown = sorted(set(case or ()) - set(CASES))
    if unknown:
        typer.echo(f"--case {unknown[0]}: can be {', '.join(CASES)}", err=True)
        raise typer.Exit(2)
    where = devices(device)[0]
    batches = batch or ([1, 8, 32] if where == "cpu" else [1, 8, 64, 256])
    results = [
        _measured(name, where, batches, seconds, samples, memory, console) for name in case or CASES
    ]
    real = _on_clips(weights, data, where, clips, console) if data else None
    memory_speed = _of_memory(where, console) if where != "cpu" else None
    if out:
        content = {"cases": results, "clips": real, "memory": memory_speed}
        report.write(out, "engine", content, _figure(results))


def _measured(
    name: str,
    device: str,
    batches: Sequence[int],
    seconds: float,
    samples: int,
    memory: bool,
    console: Console,
) -> dict[str, Any]:
    """Measure one case and print its table."""
    from rich.table import Table

    from model.engine import bench
    from model.engine.parity import measure_parity

    found = bench.CASES[name]
    config = found.config
    table = Table(
        title=f"{name}: {config.embed_dim} channels, T = {found.steps}, {device}",
        title_justify="left",
    )
    for heading in (
        "batch", "path", "ms a batch", "samples/s", "times plain", "share of peak", "MiB", "rounds"
    ):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=heading == "path")
    work, peak = bench.operations(found), bench.peak(device)
    rows = []
    for timing in bench.timings(found, batches, seconds, device):
        taken = bench.memory(name, timing.path, timing.batch, device) if memory else None
        share = timing.samples_s * work / peak
        rows.append({**asdict(timing), "share_of_peak": share, "memory_mib": taken})
        table.add_row(
            str(timing.batch), timing.path, f"{timing.milliseconds:.2f}",
            f"{timing.samples_s:.1f}", f"{timing.ratio:.2f}", f"{share:.0%}", str(taken or "-"),
            str(timing.rounds),
        )  # fmt: skip
    plain = bench.network(found).to(device)
    parities = {}
    for path in dict.fromkeys(row["path"] for row in rows):
        layers = bench.parity_layers(plain, path)
        if layers is not None:
            frames = (bench.inputs(found, 8, seed=100 + part) for part in range(-(-samples // 8)))
            parities[path] = measure_parity(plain, layers, _on(device, frames), found.steps)
    console.print(table)
    console.print(
        f"{work / 1e9:.2f} G multiply-accumulates a sample, as published; this device reaches "
        f"{peak / 1e9:.0f} G a second in a float32 matrix product"
    )
    for path, parity in parities.items():
        console.print(_told(path, parity))
    console.print()
    return {
        "case": name,
        "device": device,
        "operations": work,
        "peak": peak,
        "timings": rows,
        "parity": {path: asdict(parity) for path, parity in parities.items()},
    }


def _on(device: str, batches: Iterable[dict[str, Tensor]]) -> Iterator[dict[str, Tensor]]:
    for frames in batches:
        yield {name: x.to(device) for name, x in frames.items()}


def _of_memory(device: str, console: Console) -> dict[str, float]:
    """What a GPU's memory gives, and what the plain network's neurons reach of it."""
    from model.engine import bench

    copies, neurons = bench.bandwidth(device), bench.neurons(device)
    console.print(
        f"{device} copies {copies / 1e9:.0f} GB/s, read and written; spikingjelly's neurons, "
        f"{neurons / 1e9:.0f} GB/s ({neurons / copies:.0%}); fused ones keep currents in registers"
    )
    return {"bytes_s": copies, "neurons_bytes_s": neurons}


def _on_clips(
    weights: Path, data: Path, device: str, count: int, console: Console
) -> dict[str, Any]:
    """Compare the fused path of a trained checkpoint to its plain network, on real clips."""
    from model import checkpoint
    from model.engine import bench
    from model.engine.parity import measure_parity
    from model.training.evaluator import held_out_batches

    plain, card = checkpoint.load(weights)
    path: EnginePath = "fused" if device == "cpu" else "fused-graphs"
    layers = bench.parity_layers(plain.to(device).eval(), path)
    assert layers is not None
    clips = _on(device, held_out_batches(weights, data, count))
    parity = measure_parity(plain, layers, clips, card.steps)
    console.print(_told(f"{card.name} {card.version} on clips of {data}, {path}", parity))
    return asdict(parity)


def _told(path: str, parity: Parity) -> str:
    return (
        f"{path} against plain: {parity.flips} of {parity.spikes} spikes differ at layers given "
        f"the same input, {parity.token_flips} of {parity.tokens} values at the tokens, "
        f"{parity.classes} of {parity.samples} answers, probabilities by at most "
        f"{parity.difference:.1e}"
    )


def _figure(results: Sequence[dict[str, Any]]) -> Figure:
    """Samples a second of each path, a panel a case."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(results), 3.6), layout="constrained")
    for axes, result in zip(
        figure.subplots(1, len(results), squeeze=False)[0], results, strict=True
    ):
        timings = result["timings"]
        batches = sorted({row["batch"] for row in timings})
        paths = dict.fromkeys(row["path"] for row in timings)
        for offset, name in zip((-0.27, 0, 0.27), paths, strict=False):
            speeds = [row["samples_s"] for row in timings if row["path"] == name]
            places = [index + offset for index in range(len(batches))]
            bars = axes.bar(places, speeds, 0.26, label=name)
            axes.bar_label(bars, fmt="%.0f", fontsize=8)
        axes.set_xticks(range(len(batches)), [str(batch) for batch in batches])
        axes.set_xlabel("batch")
        axes.set_title(result["case"])
    figure.axes[0].set_ylabel("samples a second")
    figure.axes[0].legend()
    return figure
