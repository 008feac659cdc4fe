"""`scmrl import`: the command line of model.checkpoint.import_file."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.checkpoint.published_tasks import PUBLISHED_TASKS, AttentionChoice, Overrides
from model.config import MAX_STEPS
from service.commands.failure import UNUSABLE, fail

if TYPE_CHECKING:
    from model.checkpoint.import_file import Imported

_Task = StrEnum("_Task", {name: name for name in PUBLISHED_TASKS})  # type: ignore[misc]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("import")(import_checkpoint)


def import_checkpoint(
    file: Annotated[
        Path, typer.Argument(help="A file of the published training.", metavar="FILE.pth.tar")
    ],
    task: Annotated[
        _Task, typer.Option(help="What it was trained on: decides preprocessing and labels.")
    ],
    out: Annotated[Path, typer.Option(help="New folder of the checkpoint, such as weights/NAME.")],
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Text file with one label a line, in the order of the logits, instead of the "
            "task's."
        ),
    ] = None,
    attention: Annotated[
        AttentionChoice | None,
        typer.Option(help="Attention between the streams.", show_default="the file's"),
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(help="Weight of the residual.", show_default="the file's, else 1.5"),
    ] = None,
    heads: Annotated[
        int | None,
        typer.Option(min=1, help="Attention heads.", show_default="the file's, else 16"),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1, max=MAX_STEPS, help="Time steps T.", show_default="the file's, else the task's"
        ),
    ] = None,
) -> None:
    """Convert a file that the published training wrote (`model_best.pth.tar`) to a checkpoint.

    Nothing in the file is executed: a file that holds more than tensors and plain data is refused.
    The network's configuration comes from the training command in the file, or from the shapes of
    its weights. Prints the entries that are not used, and the result of a forward pass.
    """
    from model.checkpoint import CheckpointError, save
    from model.checkpoint.import_file import import_checkpoint as run

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        fail(f"{out} is there already: name a new folder", UNUSABLE)
    if out.name != (name := os.fsencode(out.name).decode(errors="backslashreplace")):
        fail(f"--out {name}: the name of a checkpoint must be in UTF-8", UNUSABLE)
    overrides = Overrides(attention, alpha, heads, steps)
    try:
        imported = run(file, PUBLISHED_TASKS[task.value], out.name, labels, overrides)
        save(out, imported.network, imported.card)
    except CheckpointError as exc:
        fail(str(exc), UNUSABLE)
    except OSError as exc:
        fail(str(exc), 1)
    _report(imported, out)


def _report(imported: Imported, out: Path) -> None:
    config, check = imported.card.config, imported.check
    streams = " and ".join(config.streams)
    typer.echo(
        f"{streams}: {config.embed_dim} channels, {config.heads} heads, attention "
        f"{config.attention or 'none'}, alignment {'yes' if config.alignment else 'no'}, alpha "
        f"{config.alpha:g}, fusion {config.fusion}, {config.classes} classes, T = {check.steps}"
    )
    thresholds = [f"{value:g} ({count} layers)" for value, count in imported.thresholds.items()]
    typer.echo(f"thresholds: {', '.join(thresholds)}")
    unused = [f"{part} ({count})" for part, count in imported.unused.items()]
    typer.echo(f"weights that take no part: {', '.join(unused) or 'none'}")
    if imported.ignored:
        typer.echo(f"not used of the file: {', '.join(imported.ignored)}")
    rates = [f"{name} {rate:.3f}" for name, rate in check.firing_rates.items()]
    typer.echo(
        f"check forward: logits up to {check.largest_logit:.3g}; firing rates {', '.join(rates)}"
    )
    for note in imported.card.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"the checkpoint is in {out}; next: scmrl serve --models {out.parent}")
