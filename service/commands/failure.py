"""The end of a command that failed: its exit code, and its message on stderr."""

from __future__ import annotations

from typing import NoReturn

import typer

#: Exit codes: options, data or a checkpoint cannot be used; ended by Ctrl-C, as shells have it.
UNUSABLE, INTERRUPTED = 2, 130
NOT_INSTALLED = "the libraries for training are not installed: pip install -e '.[train]'"


def fail(message: str, code: int) -> NoReturn:
    """End the command with a message on stderr and an exit code."""
    typer.echo(f"scmrl: {message}", err=True)
    raise typer.Exit(code)
