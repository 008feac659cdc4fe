"""`scmrl keys`: generate API keys, and their lines for a key file."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from service.keys.key_file import ADMIN_NAME, KeysError, entry_names, record

#: Random bytes of a new key.
_KEY_BYTES = 32
#: Maximum characters of a key on stdin.
_MAX_CHARACTERS = 10_000

_KEYS = typer.Typer(no_args_is_help=True)

_Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help=f"Name of the client, for the log; `{ADMIN_NAME}` for the key of /v1/admin.",
    ),
]
_PerMinute = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=999_999_999,
        help="Rate limit of this key, in requests per minute; 0: no limit. "
        "[default: SCMRL_RATE_LIMIT_PER_MIN]",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    _KEYS.command("new")(new)
    _KEYS.command("hash")(hash_key)
    app.add_typer(_KEYS, name="keys", help="Generate API keys, and their lines for a key file.")


def new(
    name: _Name,
    per_minute: _PerMinute = None,
    append_to: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Append the line to this file, created with mode 0600, and print the key alone.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Generate a random key, and print it with its line for the key file.

    Give the key to the client: it is printed once and not stored. Add the line to the file
    SCMRL_API_KEYS_FILE or, for `admin`, to SCMRL_ADMIN_KEY_FILE. The line contains only the SHA-256
    of the key, with which no request can be sent.

    Examples:

        scmrl keys new anna

        scmrl keys new anna --per-minute 60 --append-to api-keys

        scmrl keys new admin
    """
    secret = secrets.token_urlsafe(_KEY_BYTES)
    line = _record(name, secret, per_minute, allow_weak=False)
    if append_to is None:
        typer.echo(f"key:  {secret}")
        typer.echo(f"line: {line}")
        return
    _append(append_to, name, line)
    typer.echo(secret)


def _append(file: Path, name: str, line: str) -> None:
    """Append the line of a key to a file; after a line break, where the file does not end in one.

    Ends the command where the file has a key of this name.
    """
    try:
        with open(os.open(file, os.O_RDWR | os.O_CREAT, 0o600), "r+", encoding="utf-8") as opened:
            text = opened.read()
            if line.split(":")[0] in entry_names(text):  # the service would not start with it
                _fail(
                    f"{file} has a key of {name} already; remove its line, or choose another name"
                )
            opened.write("\n" * (text != "" and not text.endswith("\n")) + line + "\n")
    except (OSError, UnicodeDecodeError) as exc:
        _fail(f"{file}: the line cannot be appended: {exc}")


def hash_key(
    name: _Name,
    per_minute: _PerMinute = None,
    allow_weak: Annotated[
        bool,
        typer.Option(
            "--allow-weak",
            metavar="",
            help="Accept a key that is short or easy to guess.",
            envvar="SCMRL_ALLOW_WEAK_KEYS",
        ),
    ] = False,
) -> None:
    """Read a key from stdin, and print its line for the key file.

    Examples:

        scmrl keys hash anna < anna.key >> api-keys

        openssl rand -hex 32 | tee admin.key | scmrl keys hash admin > admin-key
    """
    if sys.stdin.isatty():
        secret = typer.prompt("Key", hide_input=True, err=True)
    else:
        secret = sys.stdin.read(_MAX_CHARACTERS)
    typer.echo(_record(name, secret.strip(), per_minute, allow_weak))


def _record(name: str, secret: str, per_minute: int | None, allow_weak: bool) -> str:
    try:
        return record(name, secret, per_minute, allow_weak)
    except KeysError as exc:
        _fail(str(exc))


def _fail(message: str) -> NoReturn:
    typer.echo(f"scmrl keys: {message}", err=True)
    raise typer.Exit(2)
