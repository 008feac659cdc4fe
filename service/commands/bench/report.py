"""Files that a benchmark writes: its results with command, machine and date, and a figure."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from service.runtime import cores

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def require_modules(*modules: str) -> None:
    """Exit with code 1, naming the extra to install, where a module is missing."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        typer.echo(f"scmrl: {missing[0]} is not installed: pip install -e '.[bench]'", err=True)
        raise typer.Exit(1)


def write(folder: Path, name: str, results: Any, figure: Figure) -> None:
    """Write NAME.json and NAME.png to the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "command": shlex.join(["scmrl", *sys.argv[1:]]),
        "machine": describe_machine(),
        "results": results,
    }
    (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    figure.savefig(folder / f"{name}.png", dpi=120)
    typer.echo(f"wrote {folder / name}.json and .png")


def describe_machine() -> dict[str, Any]:
    """Return the machine, the versions and the date of a measurement."""
    import torch

    return {
        "processor": _processor(),
        "cores": cores.available(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.release()}",
        "load_average": round(os.getloadavg()[0], 2),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
