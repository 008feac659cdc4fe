"""Discovery: which folders of SCMRL_MODELS hold a checkpoint."""

from __future__ import annotations

import os
import re
from pathlib import Path

from model.checkpoint import CARD
from service.errors import StartupError
from service.inference.file_watch import may_have_card

#: Names of folders that can be loaded by name.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")


def discover(folder: Path, default: str) -> list[str]:
    """Return the names of the folders in `folder` that hold a card, the default one first.

    Raises StartupError if `folder` is not a folder or the default checkpoint is not in it.
    """
    if not folder.is_dir():
        raise StartupError(f"models: {folder} is not a folder (SCMRL_MODELS, --models)")
    names = [name for name in sorted(os.listdir(folder)) if may_have_card(folder / name)]
    if default not in names:
        available = f"available: {', '.join(names)}" if names else "the folder has no checkpoints"
        raise StartupError(
            f"default_model: {folder / default / CARD} does not exist; {available} "
            "(SCMRL_DEFAULT_MODEL, --default-model)"
        )
    return [default, *(name for name in names if name != default)]


def has_card(folder: Path, name: str) -> bool:
    """Return whether `name` is a valid name of a folder in `folder` that holds a card."""
    return bool(_NAME.fullmatch(name)) and os.path.exists(folder / name / CARD)
