"""Options of commands that ask a server, and how its errors end a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from service.client import Client

#: The address of a server.
Url = Annotated[
    str, typer.Option("--url", metavar="URL", help="Address of the server.", show_default=True)
]
#: The API key that a server asks for.
Key = Annotated[
    str | None,
    typer.Option(
        "--key", metavar="KEY", help="API key; @FILE reads it from a file, which others cannot see."
    ),
]
DEFAULT_URL = "http://127.0.0.1:8000"


def read_key(key: str | None) -> str | None:
    """Return the key, read from the file of @FILE."""
    if key is None or not key.startswith("@"):
        return key
    try:
        return Path(key[1:]).read_text("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise typer.BadParameter(f"cannot read {key[1:]}: {exc}", param_hint="--key") from exc


def make_client(url: str, key: str | None) -> Client:
    """Return a client of the server at `url`; `key` as in `read_key`."""
    from service.client import Client

    try:
        return Client(url, key=read_key(key))
    except ValueError as exc:
        hint = "--key" if str(exc).startswith("key:") else "--url"
        raise typer.BadParameter(str(exc), param_hint=hint) from exc


@contextmanager
def reporting_errors() -> Iterator[None]:
    """End the command with what the client's errors say."""
    from service.client import ClientError, UnreachableError

    try:
        yield
    except ClientError as exc:
        message = str(exc)
        if isinstance(exc, UnreachableError) and f"{DEFAULT_URL.partition('://')[2]}/" in message:
            message += " `scmrl serve` starts a server there; --url names another one."
        typer.echo(message, err=True)
        raise typer.Exit(1) from exc
