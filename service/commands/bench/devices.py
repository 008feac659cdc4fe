"""`scmrl bench devices`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands.bench import report
from service.default_checkpoint import WEIGHTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

    from service.bench.devices import DevicesLoad


def devices(
    weights: Annotated[
        Path, typer.Option(help="Folder of a checkpoint.", show_default="the embedded avdigits")
    ] = WEIGHTS / "avdigits",
    device: Annotated[
        list[str] | None,
        typer.Option(
            help="A device, once for each: cuda:0, cpu, … Default: all CUDA devices if they are "
            "several, else two processes on the CPU, which stand for two devices."
        ),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of each network on a CPU.")] = 1,
    max_batch: Annotated[int, typer.Option(min=1, help="Largest batch.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; medians are reported.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of each measurement.")] = 3,
    out: Annotated[
        Path | None, typer.Option(help="Folder for devices.json and devices.png.")
    ] = None,
) -> None:
    """Measure several devices, each with a process of its own, behind one queue.

    Each round measures the first device, then all, then all while the first has other work, that of
    a second checkpoint. Prints throughput, latency, what each device gets, and how even the clients
    are served. Inputs are preprocessed; there is no HTTP.
    """
    report.require_modules(*["matplotlib"] * bool(out))
    from rich.console import Console

    from model import checkpoint
    from model.engine import devices as all_devices
    from service.bench.devices import measure
    from service.bench.tensors import make_clips
    from service.device_link.connection import DeviceLost
    from service.device_link.devices import Devices
    from service.device_link.engine import DeviceFailure
    from service.device_link.process import ProcessOptions

    names = device or all_devices("auto")
    names = names if device or len(names) > 1 else ["cpu", "cpu"]
    processes = Devices(ProcessOptions(threads, "warning", "console"), limit_s=300.0)
    try:
        network, card = checkpoint.load(weights)
        loads = measure(
            processes, names, network, card.steps, make_clips(card.config),
            max_batch=max_batch, seconds=seconds, rounds=rounds,
        )  # fmt: skip
    except checkpoint.CheckpointError as exc:
        raise typer.BadParameter(str(exc), param_hint="--weights") from exc
    except (DeviceFailure, DeviceLost) as exc:
        typer.echo(f"Error: {exc}", err=True)
        raise typer.Exit(1) from exc
    finally:
        processes.stop()
    Console(width=160).print(_table(weights.name, max_batch, loads))
    if out:
        report.write(out, "devices", [asdict(load) for load in loads], _figure(loads))


def _table(name: str, max_batch: int, loads: Sequence[DevicesLoad]) -> Table:
    from rich.table import Table

    table = Table(title=f"{name}, batches of {max_batch}", title_justify="left")
    for heading in ("way", "clips/s", "of one", "without queue", "p50 ms", "p99 ms", "longest ms",
                    "clips by device", "batches", "clients: fewest, most"):  # fmt: skip
        table.add_column(heading, justify="left" if heading == "way" else "right")
    for load in loads:
        clips = sum(share.clips for share in load.shares)
        table.add_row(
            load.way, f"{load.clips_s:.1f}", f"{load.clips_s / loads[0].clips_s:.2f}",
            f"{load.without_queue_clips_s:.1f}",
            f"{load.p50_ms:.0f}", f"{load.p99_ms:.0f}", f"{load.longest_ms:.0f}",
            ", ".join(f"{share.device} {share.clips / clips:.0%}" for share in load.shares),
            ", ".join(str(share.batches) for share in load.shares),
            f"{load.fewest_clips:.2f}, {load.most_clips:.2f}",
        )  # fmt: skip
    return table


def _figure(loads: Sequence[DevicesLoad]) -> Figure:
    """Plot the clips/s of each way, and what each device has of them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    for position, load in enumerate(loads):
        left, clips = 0.0, sum(share.clips for share in load.shares)
        for number, share in enumerate(load.shares):
            width = load.clips_s * share.clips / clips
            axes.barh(position, width, left=left, color=f"C{number}")
            left += width
    axes.set_yticks(range(len(loads)), [load.way for load in loads])
    axes.invert_yaxis()
    axes.set_xlabel("clips/s, by device")
    return figure
