"""Discovery: which folders of SCMRL_MODELS hold a checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

from model.checkpoint import CARD
from service.errors import StartupError
from service.inference.file_watch import may_have_card

#: Longest name of a folder that can be loaded by name, in characters.
_MAX_NAME = 100


def discover(folder: Path, default: str) -> list[str]:
    """Return the names of the folders in `folder` that hold a card, the default one first.

    Raises StartupError if `folder` is not a folder or the default checkpoint is not in it.
    """
    if not folder.is_dir():
        raise StartupError(f"models: {folder} is not a folder (SCMRL_MODELS, --models)")
    names = [name for name in sorted(os.listdir(folder)) if may_have_card(folder / name)]
    if default not in names:
        hint = "the folder has no checkpoints"
        if names:
            hint = f"choose the checkpoint that answers POST /v1/classify among {', '.join(names)}"
        raise StartupError(
            f"default_model: {folder / default / CARD} does not exist; {hint} "
            "(SCMRL_DEFAULT_MODEL, --default-model)"
        )
    return [default, *(name for name in names if name != default)]


def has_card(folder: Path, name: str) -> bool:
    """Return whether `name` is the name of a folder in `folder`, not hidden, that holds a card.

    `name` is of a request: no other folder is looked at.
    """
    is_name = name.isprintable() and not name.startswith(".") and not {"/", "\\"} & set(name)
    return is_name and 0 < len(name) <= _MAX_NAME and os.path.exists(folder / name / CARD)
