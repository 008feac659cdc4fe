"""`scmrl bench`: how fast everything is here, in numbers that anyone can repeat."""

from __future__ import annotations

import typer

from service.commands.bench.decode import decode
from service.commands.bench.engine import engine
from service.commands.bench.scaling import scaling
from service.commands.bench.service import service

_BENCHES = typer.Typer(no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (engine, service, decode, scaling):
        _BENCHES.command(command.__name__)(command)
    app.add_typer(_BENCHES, name="bench", help="Measure speed on this machine.")
