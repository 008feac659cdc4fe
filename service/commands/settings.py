"""`scmrl settings`: what can be set, and what it is set to here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import SecretStr, ValidationError
from pydantic.fields import FieldInfo

from service.settings import Settings, complaint, unknown_variables


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("settings")(settings)


def settings(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the README's table, with the defaults.")
    ] = False,
) -> None:
    """List every setting: its variable, what it is set to here, its default and what it does."""
    if markdown:
        typer.echo("\n".join(markdown_table()))
        return
    from rich.console import Console
    from rich.table import Table

    for warning in unknown_variables(os.environ):
        typer.echo(f"scmrl settings: {warning}", err=True)
    try:
        here = Settings()
    except ValidationError as exc:
        for error in exc.errors():
            typer.echo(f"SCMRL_{str(error['loc'][0]).upper()}: {complaint(error)}", err=True)
        raise typer.Exit(2) from exc
    table = Table("variable", "here", "default", "what")
    for name, field in Settings.model_fields.items():
        now, default = shown(getattr(here, name), field), shown(field.default, field)
        table.add_row(
            f"SCMRL_{name.upper()}", now if now == default else f"[bold]{now}[/bold]", default,
            field.description,
        )  # fmt: skip
    Console().print(table)


def markdown_table() -> Iterator[str]:
    """The lines of a table of all settings and their defaults."""
    yield "| variable | default | what |"
    yield "| --- | --- | --- |"
    for name, field in Settings.model_fields.items():
        default = shown(field.default, field)
        yield f"| `SCMRL_{name.upper()}` | {default} | {field.description} |"


def shown(value: Any, field: FieldInfo) -> str:
    """A value of a setting, with the setting's unit; of a secret only whether it is set."""
    if isinstance(value, SecretStr):
        return "set" if value.get_secret_value() else "none"
    if value is None or value == ():
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Path):
        return os.path.relpath(value)
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    extra = field.json_schema_extra
    unit = extra.get("unit", "") if isinstance(extra, dict) else ""
    return f"{value:g} {unit}".strip() if isinstance(value, float) else f"{value} {unit}".strip()
