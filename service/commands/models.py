"""`scmrl models`: list the checkpoints in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.default_checkpoint import WEIGHTS

if TYPE_CHECKING:
    from model.checkpoint import Card


#: Parts of the name of an accuracy, as "accuracy, both streams".
_PARTS = 2


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("models")(models)


def models(
    folder: Annotated[
        Path,
        typer.Option(
            "--models",
            help="Folder of checkpoints.",
            envvar="SCMRL_MODELS",
            show_default="the embedded ones",
        ),
    ] = WEIGHTS,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print one card per line, as JSON.")
    ] = False,
) -> None:
    """List the checkpoints in a folder, and verify the SHA-256 of their weights.

    The table has the accuracy with each choice of streams; --json has all measurements. Exits with
    code 1 if a checkpoint is damaged or there are none.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from model import checkpoint

    table = Table(title=f"Checkpoints in {escape(str(folder))}", title_justify="left")
    for heading in ("name", "version", "streams", "labels", "T", "accuracy"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("name", "accuracy"))
    damaged = 0
    folders = sorted(path.parent for path in folder.glob(f"*/{checkpoint.CARD}"))
    for path in folders:
        try:
            _, card = checkpoint.load(path)
        except checkpoint.CheckpointError as exc:
            typer.echo(f"{path.name}: {exc}", err=True)
            damaged += 1
            continue
        if as_json:
            typer.echo(card.model_dump_json())
        else:
            table.add_row(*map(escape, _row(path.name, card)))
    if not folder.is_dir():
        typer.echo(f"{folder} is not a folder", err=True)
    elif not folders:
        typer.echo(f"there are no checkpoints in {folder}", err=True)
    elif not as_json:
        Console().print(table)
    raise typer.Exit(1 if damaged or not folders else 0)


def _row(name: str, card: Card) -> tuple[str, ...]:
    measured = [(m.what.split(", "), m.value) for m in card.accuracy]
    # Those of streams alone; accuracies in detail have a further part, as "T = 8".
    accuracy = "\n".join(
        f"{', '.join(parts[1:]) or 'all'}: {100 * value:.1f} %"
        for parts, value in measured
        if parts[0] == "accuracy" and len(parts) <= _PARTS
    )
    labels = f"{len(card.labels)}: {', '.join(card.labels)}"
    return name, card.version, "\n".join(card.streams), labels, str(card.steps), accuracy or "-"
