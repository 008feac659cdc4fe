"""`scmrl bench tables`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from service.commands.bench import markdown_tables


def tables(
    folder: Annotated[
        Path, typer.Argument(help="Folder with files that the other commands wrote with --out.")
    ],
    into: Annotated[
        list[Path] | None,
        typer.Option(
            help="Markdown page whose tables are written anew, each below its line "
            "<!-- bench: NAME -->. May be given several times."
        ),
    ] = None,
) -> None:
    """Write what the other commands measured as Markdown tables.

    Without --into every table is printed, below the line that marks its place in a page.
    """
    try:
        made = markdown_tables.tables_of(folder)
        pages = {
            page: markdown_tables.fill(page.read_text(encoding="utf-8"), made)
            for page in into or ()
        }
    except (OSError, ValueError) as exc:
        typer.echo(f"Error: {exc}", err=True)
        raise typer.Exit(1) from exc
    for page, text in pages.items():
        page.write_text(text, encoding="utf-8")
    if not pages:
        for name, table in made.items():
            typer.echo(f"<!-- bench: {name} -->\n{table}")
