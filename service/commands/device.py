"""The option --device of commands that run a network."""

from __future__ import annotations

from typing import Annotated

import typer

from model.device import CHOICES, DeviceError, check_name, resolve_device


def _check(name: str) -> str:
    """Return the name of an available device; exit with code 2 for any other."""
    try:
        check_name(name)
        if name.startswith("cuda"):
            from service.runtime.torch_import import import_torch

            import_torch()
            resolve_device(name)
    except DeviceError as exc:
        raise typer.BadParameter(str(exc)) from None
    return name


Device = Annotated[str, typer.Option(help=f"{CHOICES}.", envvar="SCMRL_DEVICE", callback=_check)]
