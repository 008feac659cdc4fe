"""Parameters of commands on a checkpoint, and flags that are made from fields of options."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from model.training.options import range_of

#: The folder of the checkpoint.
Checkpoint = Annotated[Path, typer.Argument(help="A checkpoint's folder.", metavar="CHECKPOINT")]
#: The data folder of the checkpoint's task.
Data = Annotated[
    Path | None,
    typer.Option(
        help="Data folder of the checkpoint's task. [default: the one in its card]",
        show_default=False,
    ),
]


def value_name(kind: Any) -> str:
    """Return what the help shows for the value of a flag: short, so that no flag is cut off."""
    names: dict[Any, str] = {bool: "", int: "N", float: "X", str: "TEXT"}
    return names.get(kind, "PATH")


def spaced(value: Any) -> str:
    """Return a value for the help, whose lines break at spaces only."""
    return re.sub(r",(?=\S)", ", ", str(value))


def flag_of(options: type, name: str, *names: str, **more: Any) -> Any:
    """Return the flag of a field of a dataclass of options, with its help and its range.

    `names`, `more`: as `typer.Option` takes them.
    """
    (field,) = (member for member in fields(options) if member.name == name)
    least, most = range_of(field) or (None, None)
    if field.type in (bool, "bool"):
        more["metavar"] = value_name(bool)
    return typer.Option(*names, help=field.metadata["help"], min=least, max=most, **more)
