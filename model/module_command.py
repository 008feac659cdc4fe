"""The command that runs a module of this project in another process."""

from __future__ import annotations

import sys


def module_command(module: str, *arguments: object) -> list[str]:
    """Return the command of `python -m module` with arguments, by this Python.

    The working directory is not on its path (-P): a file model.py or a folder service of a user
    there would be imported in place of the packages of these names.
    """
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]
