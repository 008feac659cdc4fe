"""`scmrl bench`: speed and scaling on this machine."""

from __future__ import annotations

import typer

from service.commands.bench.decode import decode
from service.commands.bench.devices import devices
from service.commands.bench.engine import engine
from service.commands.bench.scaling import scaling
from service.commands.bench.service import service
from service.commands.bench.stream import stream
from service.commands.bench.tables import tables
from service.commands.bench.tensors import tensors

_COMMANDS = typer.Typer(no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for command in (engine, tensors, devices, service, decode, scaling, stream, tables):
        _COMMANDS.command(command.__name__)(command)
    app.add_typer(_COMMANDS, name="bench", help="Measure speed on this machine.")
